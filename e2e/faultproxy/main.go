// faultproxy stands between a client and a real API server and does to the traffic what its rules say.
//
// The proxying is net/http/httputil's; only the faults are ours. It listens without TLS on loopback and speaks to
// the API server with one client certificate, so that the audit log tells who came through it.
// GET, PUT and DELETE /_faults read (with hit counts), replace and clear the rules.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Rule says which requests are hit, and by what. The first rule that matches and fires wins; an empty field is no limit.
type Rule struct {
	Name        string   `json:"name"`
	Verbs       []string `json:"verbs"`       // get, list, continue (a further page), watch, create, update, patch, delete
	Path        string   `json:"path"`        // regular expression
	NotPath     string   `json:"notPath"`     // regular expression of paths that are spared
	Probability float64  `json:"probability"` // 0 means always
	Times       int      `json:"times"`       // fires at most so often

	Status       int     `json:"status"`       // answer this instead of forwarding
	RetryAfter   int     `json:"retryAfter"`   // seconds, beside status
	DelaySeconds float64 `json:"delaySeconds"` // forward later
	LoseAnswer   bool    `json:"loseAnswer"`   // forward, then break the connection instead of answering
	// Of watches:
	DropAfterEvents  int     `json:"dropAfterEvents"`  // break the stream after so many events
	DropAfterSeconds float64 `json:"dropAfterSeconds"` // break it after this time
	DropNow          bool    `json:"dropNow"`          // break those that are open when the rule comes
	Stall            bool    `json:"stall"`            // keep the stream open and say nothing more
	Duplicate        bool    `json:"duplicate"`        // send every event twice
	Stale            bool    `json:"stale"`            // send the event before last again after each event
	Gone             bool    `json:"gone"`             // send ERROR 410 as the first event, and end

	Hits          int `json:"hits"`
	path, notPath *regexp.Regexp
}

type proxy struct {
	mu      sync.Mutex
	rules   []*Rule
	streams map[*stream]struct{}
}

var collection = regexp.MustCompile(`^/(?:api/[^/]+|apis/[^/]+/[^/]+)(?:/namespaces/[^/]+)?/[^/]+$`)

func verbOf(r *http.Request) string {
	query := r.URL.Query()
	switch {
	case r.Method != http.MethodGet:
		return map[string]string{"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[r.Method]
	case query.Get("watch") == "true" || query.Get("watch") == "1":
		return "watch"
	case query.Get("continue") != "":
		return "continue"
	case collection.MatchString(r.URL.Path) && !strings.HasSuffix(r.URL.Path, "/namespaces"):
		return "list"
	}
	return "get"
}

func (rule *Rule) matches(verb, path string) bool {
	if !rule.path.MatchString(path) || (rule.NotPath != "" && rule.notPath.MatchString(path)) {
		return false
	}
	for _, one := range rule.Verbs {
		if one == verb {
			return true
		}
	}
	return len(rule.Verbs) == 0
}

func (rule *Rule) ofStreams() bool {
	return rule.DropAfterEvents > 0 || rule.DropAfterSeconds > 0 || rule.DropNow || rule.Stall || rule.Duplicate || rule.Stale || rule.Gone
}

// fire gives the first rule that hits this request, and counts it.
func (p *proxy) fire(verb, path string, streams bool) *Rule {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, rule := range p.rules {
		if rule.ofStreams() != streams || !rule.matches(verb, path) || (rule.Times > 0 && rule.Hits >= rule.Times) {
			continue
		}
		if rule.Probability > 0 && rand.Float64() >= rule.Probability {
			continue
		}
		rule.Hits++
		return rule
	}
	return nil
}

func (p *proxy) admin(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch r.Method {
	case http.MethodPut:
		rules := []*Rule{}
		if err := json.NewDecoder(r.Body).Decode(&rules); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for _, rule := range rules {
			var errs [2]error
			rule.path, errs[0] = regexp.Compile(rule.Path)
			rule.notPath, errs[1] = regexp.Compile(rule.NotPath)
			if err := errors.Join(errs[:]...); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
		}
		p.rules = rules
		for open := range p.streams {
			for _, rule := range rules {
				if rule.DropNow && rule.matches("watch", open.path) {
					rule.Hits++
					open.Close()
				}
			}
		}
	case http.MethodDelete:
		p.rules = nil
	}
	_ = json.NewEncoder(w).Encode(p.rules)
}

func status(code int) []byte {
	reasons := map[int]string{403: "Forbidden", 409: "Conflict", 410: "Expired", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout"}
	body, _ := json.Marshal(map[string]any{"kind": "Status", "apiVersion": "v1", "metadata": map[string]any{}, "status": "Failure",
		"message": "injected by the fault proxy", "reason": reasons[code], "code": code})
	return body
}

func (p *proxy) faulty(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/_faults" {
			p.admin(w, r)
			return
		}
		rule := p.fire(verbOf(r), r.URL.Path, false)
		if rule == nil {
			next.ServeHTTP(w, r)
			return
		}
		if rule.DelaySeconds > 0 {
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
			time.Sleep(time.Duration(rule.DelaySeconds * float64(time.Second)))
			r = r.WithContext(context.WithoutCancel(r.Context())) // what was sent arrives, even if nobody waits any more
			w = deaf{w}
		}
		if rule.Status > 0 {
			if rule.RetryAfter > 0 {
				w.Header().Set("Retry-After", fmt.Sprint(rule.RetryAfter))
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(rule.Status)
			_, _ = w.Write(status(rule.Status))
			return
		}
		if rule.LoseAnswer {
			next.ServeHTTP(&nowhere{}, r.WithContext(context.WithoutCancel(r.Context())))
			panic(http.ErrAbortHandler) // closes the connection without an answer
		}
		next.ServeHTTP(w, r)
	})
}

// deaf does not tell the reverse proxy that the client is gone.
type deaf struct{ http.ResponseWriter }

func (d deaf) Flush() { _ = http.NewResponseController(d.ResponseWriter).Flush() }

// nowhere takes an answer that nobody gets.
type nowhere struct{ header http.Header }

func (n *nowhere) Header() http.Header {
	if n.header == nil {
		n.header = http.Header{}
	}
	return n.header
}
func (n *nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n *nowhere) WriteHeader(int)             {}

func transport(ca, cert, key string) (*http.Transport, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &http.Transport{
		TLSClientConfig:     &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12},
		MaxIdleConnsPerHost: 64,
		DisableCompression:  true,
	}, nil
}

func main() {
	server := flag.String("server", "", "URL of the API server")
	ca := flag.String("ca", "", "its certificate authority")
	cert := flag.String("cert", "", "client certificate")
	key := flag.String("key", "", "its key")
	flag.Parse()
	target, err := url.Parse(*server)
	if err != nil {
		log.Fatal(err)
	}
	through, err := transport(*ca, *cert, *key)
	if err != nil {
		log.Fatal(err)
	}
	p := &proxy{streams: map[*stream]struct{}{}}
	reverse := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Del("Authorization") // the certificate says who it is
		},
		Transport:      through,
		FlushInterval:  -1,
		ModifyResponse: p.wrapWatch,
		ErrorLog:       log.New(io.Discard, "", 0),
		ErrorHandler:   func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", listener.Addr())
	go func() { // ends with the process that started it, however that ends
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	log.Fatal((&http.Server{Handler: p.faulty(reverse), ErrorLog: log.New(io.Discard, "", 0)}).Serve(listener))
}
