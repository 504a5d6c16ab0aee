package fs

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/tree"
)

// Kept is a mount whose process has ended: what a Keeper got of it.
type Kept struct {
	Path       string
	Dev, Table int // descriptors
	State      []byte
}

// Close closes the descriptors.
func (k Kept) Close() {
	unix.Close(k.Dev)
	unix.Close(k.Table)
}

// NoteOf is the Note of the mount's Config, nil where it can't be known.
func NoteOf(k Kept) []byte {
	var s state
	if json.Unmarshal(k.State, &s) != nil {
		return nil
	}
	return s.Note
}

// Resume goes on with a mount where its process ended, with what that showed; open
// makes a view again. Who has something open in it notices nothing but a pause. A
// move that had begun is ended first: until then nothing is answered. An error
// means that the mount is lost: what the kernel keeps for it fails when its last
// descriptor is closed. The descriptors are used up in any case.
func Resume(ctx context.Context, cfg Config, from Kept, open func(context.Context, *Seen) (*tree.View, error), blobs Blobs) (*FS, error) {
	f, err := resume(ctx, cfg, from, open, blobs)
	if err != nil {
		return nil, fmt.Errorf("go on with the mount at %s: %w", from.Path, err)
	}
	return f, nil
}

func resume(ctx context.Context, cfg Config, from Kept, open func(context.Context, *Seen) (*tree.View, error), blobs Blobs) (f *FS, err error) {
	dev := from.Dev
	defer func() {
		if err != nil && dev != 0 {
			unix.Close(dev)
		}
	}()
	table, err := adoptInodes(from.Table)
	if err != nil {
		return nil, err
	}
	defer func() {
		if table != nil {
			table.close()
		}
	}()
	var st state
	if err := json.Unmarshal(from.State, &st); err != nil {
		return nil, err
	}
	switch {
	case st.Layout != tableLayout:
		return nil, fmt.Errorf("its inode table is of another version (%x, not %x)", st.Layout, tableLayout)
	case ended(dev):
		return nil, ErrEnded
	}
	log := cfg.Log.With("mount", cfg.Path)
	s := &shown{blobs: blobs, number: st.Number}
	if st.Shown != nil {
		if s.view, err = open(ctx, st.Shown); err != nil {
			return nil, err
		}
		log = log.With("tree", s.view.Head().Tree.String())
	}
	for _, p := range st.Past {
		if time.Since(p.Ended) > pastAge {
			break
		}
		if v, err := open(ctx, p.Seen); err == nil {
			s.past = append(s.past, &past{view: v, number: p.Number, ended: p.Ended})
		}
	}
	f = newFS(cfg, table, s, log)
	table = nil // f's
	f.device = st.Device
	f.mounts, _ = os.Open(mountTableFile)
	f.kept = &kept{by: cfg.Keeper, path: from.Path, log: log, given: true, state: st}
	if err := f.wire.reconnect(dev, f); err != nil {
		return f.fail(err)
	}
	dev = 0 // the wire's
	f.mover.serving.Store(true)
	f.mover.told.Store(st.Number)
	f.mover.one.Lock()
	defer f.mover.one.Unlock()
	for _, n := range st.Next {
		v, err := open(ctx, n)
		if err != nil {
			return f.fail(err)
		}
		if _, _, err := f.move(ctx, f.now.Load(), v, blobs); err != nil {
			return f.fail(err)
		}
	}
	close(f.wire.ready)
	return f, nil
}

// fail ends a mount that could not be resumed.
func (f *FS) fail(err error) (*FS, error) {
	f.end()
	if f.wire.served == 0 { // nobody serves it
		f.table.close()
		return nil, err
	}
	f.wire.cut()
	close(f.wire.ready)
	return nil, err
}

// Release leaves the mount to a successor: nothing more is answered, while all that
// is asked waits for that. It is for a process that is about to end, and returns at
// once.
func (f *FS) Release() error {
	if err := f.wire.cut(); err != nil {
		return fmt.Errorf("let go of the mount at %s: %w", f.cfg.Path, err)
	}
	f.end()
	return nil
}

// leaves tells whether there is nobody to tell anything any more.
func (f *FS) leaves() bool { return f.life.Err() != nil || f.wire.cutOff() }
