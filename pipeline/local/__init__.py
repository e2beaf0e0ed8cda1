"""The whole service on this machine: embedded servers, the supervisor of the Procfile, and the demo."""
