package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// stream is the body of a watch, event by event.
type stream struct {
	proxy          *proxy
	path           string
	upstream       io.ReadCloser
	lines          *bufio.Reader
	waiting        bytes.Buffer
	events         int
	last, previous []byte
	started        time.Time
	closed         chan struct{}
	once           sync.Once
}

var errDropped = errors.New("dropped by the fault proxy")

func (s *stream) Close() error {
	s.once.Do(func() { close(s.closed); s.upstream.Close() })
	return nil
}

func (s *stream) end() {
	s.proxy.mu.Lock()
	delete(s.proxy.streams, s)
	s.proxy.mu.Unlock()
	s.Close()
}

func (s *stream) Read(into []byte) (int, error) {
	if s.waiting.Len() == 0 {
		if err := s.next(); err != nil {
			s.end()
			return 0, err
		}
	}
	return s.waiting.Read(into)
}

func (s *stream) next() error {
	line, err := s.lines.ReadBytes('\n')
	if err != nil {
		return err
	}
	s.events++
	rule := s.proxy.fire("watch", s.path, true)
	if rule == nil {
		s.send(line)
		return nil
	}
	switch {
	case rule.Stall:
		<-s.closed
		return errDropped
	case rule.Gone:
		s.waiting.WriteString(`{"type":"ERROR","object":` + string(status(410)) + "}\n")
		s.upstream.Close()
	case rule.DropAfterEvents > 0 && s.events > rule.DropAfterEvents:
		return errDropped
	case rule.DropAfterSeconds > 0 && time.Since(s.started).Seconds() > rule.DropAfterSeconds:
		return errDropped
	case rule.Duplicate:
		s.send(line)
		s.waiting.Write(line)
	case rule.Stale && s.previous != nil:
		s.send(line)
		s.waiting.Write(s.previous)
	default:
		s.send(line)
	}
	return nil
}

func (s *stream) send(line []byte) {
	s.waiting.Write(line)
	s.previous, s.last = s.last, line
}

func (p *proxy) wrapWatch(answer *http.Response) error {
	if verbOf(answer.Request) != "watch" || answer.StatusCode != http.StatusOK {
		return nil
	}
	wrapped := &stream{proxy: p, path: answer.Request.URL.Path, upstream: answer.Body, lines: bufio.NewReaderSize(answer.Body, 1<<16),
		started: time.Now(), closed: make(chan struct{})}
	p.mu.Lock()
	p.streams[wrapped] = struct{}{}
	p.mu.Unlock()
	answer.Body = wrapped
	return nil
}
