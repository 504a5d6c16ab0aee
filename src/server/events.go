package server

import (
	"sync"
	"time"
)

// events is what was slow or failed, the last of it.
type events struct {
	mu   sync.Mutex
	ring [64]event // GUARDED_BY(mu)
	next int       // GUARDED_BY(mu)
}

type event struct {
	at     time.Time
	store  *stor // nil: of no store
	what   string
	answer answer
	took   time.Duration
	err    error // may be nil
}

func (e *events) add(v event) {
	v.at = time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ring[e.next%len(e.ring)] = v
	e.next++
}

// recent returns the events that may be told, newest first.
func (e *events) recent(may func(*stor) bool) []event {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []event
	for i := range min(e.next, len(e.ring)) {
		if v := e.ring[(e.next-1-i)%len(e.ring)]; v.store == nil || may(v.store) {
			list = append(list, v)
		}
	}
	return list
}
