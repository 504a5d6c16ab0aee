package fs

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/tree"
)

// Keeper holds a mount's descriptors, and what its successor must know, beyond
// the life of this process. It gets copies of descriptors.
type Keeper interface {
	Keep(path string, dev, table int, state []byte) error
	Change(path string, state []byte) error
	Drop(path string) error
}

// Seen is a view, by what it can be made from again.
type Seen struct {
	Head   string   `json:"head"` // its text
	Remote string   `json:"remote,omitempty"`
	Grafts []string `json:"grafts,omitempty"`
}

// state is what a keeper holds of a mount beside its descriptors.
type state struct {
	Layout int             `json:"layout"`          // tableLayout
	Device string          `json:"device"`          // of the mount, MAJOR:MINOR
	Number uint64          `json:"number"`          // of moves before Shown
	Shown  *Seen           `json:"shown,omitempty"` // nil: no tree yet
	Next   []*Seen         `json:"next,omitempty"`  // moves that have begun, and that the kernel was not told all of
	Past   []pastSeen      `json:"past,omitempty"`  // newest first
	Note   json.RawMessage `json:"note,omitempty"`
}

type pastSeen struct {
	*Seen
	Number uint64    `json:"number"`
	Ended  time.Time `json:"ended"`
}

// keptPast is how many trees from before a successor is told of: for what is held
// open of them. What has listed a directory in one of them and reads on in it
// later does so in the new one, after a crash.
const keptPast = 16

// maxState is how large a state gets, in bytes, before it has fewer of them.
const maxState = 64 << 10

// kept is what a keeper has of a mount. Without one, all that is done to it does
// nothing. At any moment what the keeper has is enough to go on with: a move is
// told of before it changes anything, and that it is done when the kernel knows.
type kept struct {
	by  Keeper
	log *slog.Logger

	mu    sync.Mutex
	path  string // or, once it is detached, what stands for it
	given bool
	state state
}

// detachedPrefix begins what stands for the path of a mount that was taken away
// from it and goes on for who is in it.
const detachedPrefix = "detached "

// DetachedFrom is the path that a kept mount was taken away from, or was about to
// be; ok tells whether it was.
func DetachedFrom(k Kept) (path string, ok bool) {
	rest, ok := strings.CutPrefix(k.Path, detachedPrefix)
	if !ok {
		return "", false
	}
	_, path, ok = strings.Cut(rest, " ")
	return path, ok
}

func seen(v *tree.View) *Seen {
	if v == nil {
		return nil
	}
	return &Seen{v.Head().Text(), v.Remote(), v.Grafts()}
}

// give hands a new mount to the keeper.
func (k *kept) give(f *FS, device string) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s := f.now.Load()
	k.state = state{Layout: tableLayout, Device: device, Number: s.number, Shown: seen(s.view), Note: f.cfg.Note}
	b, err := json.Marshal(k.state)
	if err == nil {
		err = k.keep(f, k.path, b)
	}
	if k.given = err == nil; !k.given {
		k.log.Warn("the mount will not outlive this process", "op", "mount", "err", err)
	}
}

// keep hands over f's descriptors, which may have ended meanwhile: then these are
// closed, or another's.
func (k *kept) keep(f *FS, path string, state []byte) error {
	f.wire.mu.Lock()
	defer f.wire.mu.Unlock()
	if f.wire.dev == 0 {
		return ErrEnded
	}
	return k.by.Keep(path, f.wire.dev, f.table.fd, state)
}

// moves takes note that the mount is about to move from the tree of a number to v.
func (k *kept) moves(number uint64, v *tree.View) {
	k.change(func(s *state) bool {
		if number-s.Number < uint64(len(s.Next)) {
			return false
		}
		s.Next = append(s.Next, seen(v))
		return true
	})
}

// stays takes note that a move from the tree of that number is not made.
func (k *kept) stays(number uint64) {
	k.change(func(s *state) bool {
		if number-s.Number >= uint64(len(s.Next)) {
			return false
		}
		s.Next = s.Next[:number-s.Number]
		return true
	})
}

// told takes note that the kernel knows of all moves up to the tree of a number.
func (k *kept) told(number uint64) {
	k.change(func(s *state) bool {
		changed := false
		for ; s.Number < number && len(s.Next) > 0; s.Number++ {
			if s.Shown != nil {
				s.Past = slices.Insert(s.Past, 0, pastSeen{s.Shown, s.Number, time.Now()})
			}
			s.Shown, s.Next, changed = s.Next[0], s.Next[1:], true
		}
		for n := len(s.Past); n > 0 && (n > keptPast || time.Since(s.Past[n-1].Ended) > pastAge); n-- {
			s.Past = s.Past[:n-1]
		}
		return changed
	})
}

func (k *kept) change(by func(*state) bool) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.given || !by(&k.state) {
		return
	}
	b, err := json.Marshal(k.state)
	for ; err == nil && len(b) > maxState && len(k.state.Past) > 0; b, err = json.Marshal(k.state) {
		k.state.Past = k.state.Past[:len(k.state.Past)/2]
	}
	if err == nil {
		err = k.by.Change(k.path, b)
	}
	if err != nil {
		k.log.Warn("the mount will not outlive this process", "op", "move", "err", err)
		k.given = false
		k.by.Drop(k.path)
	}
}

// detach makes room for another mount at the path.
func (k *kept) detach(f *FS) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.given || strings.HasPrefix(k.path, detachedPrefix) {
		return
	}
	path := fmt.Sprint(detachedPrefix, time.Now().UnixNano(), " ", k.path)
	b, err := json.Marshal(k.state)
	if err == nil {
		err = k.keep(f, path, b)
	}
	k.by.Drop(k.path)
	if k.path = path; err != nil {
		k.given = false
		if !errors.Is(err, ErrEnded) {
			k.log.Warn("who is in the mount will not outlive this process", "op", "unmount", "err", err)
		}
	}
}

// drop has the keeper let go.
func (k *kept) drop() {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.given {
		k.given = false
		k.by.Drop(k.path)
	}
}
