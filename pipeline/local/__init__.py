"""The whole service on one machine: embedded servers, a supervisor for the Procfile, and the demo."""
