package server

import (
	"sync"
	"time"
)

// configRead is what became of the config's file.
type configRead struct {
	mu     sync.Mutex
	loaded time.Time // when the one in force was read
	err    error     // why what the file has now is not in force
}

func (r *configRead) get() (time.Time, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.loaded, r.err
}

// ConfigRead has the page and the metrics tell when the config in force was read
// or, with an error, that its file can't be used now.
func (s *Server) ConfigRead(at time.Time, err error) {
	r := &s.configRead
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err = err; err == nil {
		r.loaded = at
	}
}
