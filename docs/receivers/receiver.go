// Receives postbacks: `go run receiver.go`.
// The types are those of docs/schema/postback.json, as far as they are used.
package main

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	secret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" // POSTBACK_SIGNING_SECRET
	tolerance = 5 * time.Minute
	maxBody   = 2 << 20
)

type Rendition struct {
	URL        string `json:"url"`
	BucketPath string `json:"bucket_path"`
}

type ImageError struct {
	Stage   string `json:"stage"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

type Postback struct {
	ImageURLInfo     map[string]Rendition `json:"image_url_info"`
	ImageURLError    *ImageError          `json:"image_url_error"`
	ItunesImageInfo  map[string]Rendition `json:"itunes_image_info"`
	ItunesImageError *ImageError          `json:"itunes_image_error"`
}

// Seen drops repeats. In production: a unique key in your database, in one transaction with the work.
type Seen struct {
	mutex sync.Mutex
	ids   map[string]bool
}

func (seen *Seen) once(id string, work func()) {
	seen.mutex.Lock()
	defer seen.mutex.Unlock()
	if !seen.ids[id] {
		work()
		seen.ids[id] = true
	}
}

func isSigned(header http.Header, body []byte) bool {
	id, timestamp := header.Get("webhook-id"), header.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || time.Since(time.Unix(seconds, 0)).Abs() > tolerance {
		return false
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return false
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", id, timestamp, body)
	expected := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	for _, signature := range strings.Fields(header.Get("webhook-signature")) {
		if hmac.Equal([]byte(expected), []byte(signature)) { // in constant time
			return true
		}
	}
	return false
}

func work(id string, info map[string]Rendition, err *ImageError) {
	for name, rendition := range info {
		fmt.Println(id, name, rendition.URL)
	}
	if err != nil {
		fmt.Println(id, err.Code, err.Message)
	}
}

func main() {
	seen := Seen{ids: map[string]bool{}}
	http.HandleFunc("POST /", func(response http.ResponseWriter, request *http.Request) {
		// The raw bytes as received: parsing and writing them again would break the signature.
		body, err := io.ReadAll(http.MaxBytesReader(response, request.Body, maxBody))
		if err != nil || !isSigned(request.Header, body) {
			response.WriteHeader(http.StatusUnauthorized)
			return
		}
		var postback Postback
		if err := json.Unmarshal(body, &postback); err != nil {
			response.WriteHeader(http.StatusBadRequest)
			return
		}
		id := request.Header.Get("webhook-id")
		seen.once(id, func() {
			work(id, postback.ImageURLInfo, postback.ImageURLError)
			work(id, postback.ItunesImageInfo, postback.ItunesImageError)
		})
		response.WriteHeader(http.StatusNoContent) // for repeats too: any other answer is retried
	})
	server := http.Server{Addr: "127.0.0.1:" + cmp.Or(os.Getenv("PORT"), "8000"), ReadTimeout: 30 * time.Second}
	log.Fatal(server.ListenAndServe())
}
