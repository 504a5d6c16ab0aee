package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/tier"
)

// Pauses between tries to make a mount.
const (
	firstPause = time.Second
	lastPause  = 5 * time.Second
)

// freshWait is how long the store may take to tell of a newer head where one is
// kept from before: without a network a start does not wait for longer.
const freshWait = 2 * time.Second

// begin makes a mount in the background.
func (c *Client) begin(m *mount) {
	c.work.Go(func() {
		defer close(m.ended)
		var beside sync.WaitGroup
		defer beside.Wait()
		beside.Go(func() { c.findProfile(m) })
		if !c.keep(m) {
			c.unpin(m)
			m.tried(fmt.Errorf("mount %s: given up: the config no longer has it", m.cfg.Path))
			return
		}
		c.prefetchAll(m, false)
	})
}

// goOn is begin for a mount that is there already. What began in it began long ago:
// that is not recorded.
func (c *Client) goOn(m *mount) {
	c.work.Go(func() {
		defer close(m.ended)
		var beside sync.WaitGroup
		defer beside.Wait()
		beside.Go(func() { c.findProfile(m) })
		c.prefetchAll(m, c.learns(m))
	})
}

// keep makes a mount, however often that takes. It is false if the mount is to
// go before.
func (c *Client) keep(m *mount) bool {
	made := make(chan struct{})
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer close(made)
	late := make(chan struct{})
	waiting.Go(func() {
		cfg, _ := m.config()
		timer := time.NewTimer(cfg.Wait)
		defer timer.Stop()
		select {
		case <-timer.C:
			close(late)
			c.late(m)
		case <-made:
		case <-m.life.Done():
		}
	})
	if m.outer != nil {
		select {
		case <-m.outer.up:
		case <-m.life.Done():
			return false
		}
	}
	said := ""
	for pause := firstPause / 4; ; pause = min(2*pause, lastPause) {
		err := c.make(m)
		if m.life.Err() != nil {
			return false
		}
		if err == nil {
			close(m.up)
			m.tried(nil)
			return true
		}
		m.failed(err)
		if !errors.Is(err, tier.ErrUnavailable) {
			m.tried(err)
		}
		select {
		case <-late:
			c.late(m) // again: what it lies in may not have been there
		default:
		}
		select {
		case <-time.After(pause):
		case <-m.life.Done():
			return false
		}
		// Not before: a start that can mount nothing ends, and says why itself.
		level := slog.LevelError
		if err.Error() == said {
			level = slog.LevelDebug
		}
		said = err.Error()
		c.log.Log(m.life, level, "a mount could not be made, and is tried again and again", "op", "mount", "mount", m.path, "err", err)
	}
}

// late no longer holds up the start for a mount, whose path answers with errors
// from now on.
func (c *Client) late(m *mount) {
	m.mu.Lock()
	err := m.err
	m.mu.Unlock()
	if m.outer != nil {
		select {
		case <-m.outer.up:
		default:
			err := fmt.Errorf("mount %s: %w: waiting for the mount at %s that it lies in", m.path, tier.ErrUnavailable, m.outer.path)
			m.failed(err)
			m.tried(err)
			return
		}
	}
	if err == nil {
		err = fmt.Errorf("mount %s: %w: the store has not answered yet", m.path, tier.ErrUnavailable)
	}
	if perr := c.pend(m); perr != nil {
		err = errors.Join(err, perr)
	}
	if m.showsNothing() {
		m.failed(err)
	}
	m.tried(err)
}

// tried lets Start know how the first try went.
func (m *mount) tried(err error) {
	select {
	case m.first <- err:
	default: // not the first
	}
}

// failed notes why there is no tree.
func (m *mount) failed(err error) {
	m.mu.Lock()
	m.err = err
	m.mu.Unlock()
}

// make finds the newest head of a mount's tree and mounts it.
func (c *Client) make(m *mount) error {
	cfg, _ := m.config()
	timeout := c.config().Main.IOTimeout
	if m.outer != nil {
		ctx, cancel := context.WithTimeout(m.life, timeout)
		defer cancel()
		if err := c.regraft(ctx, m.outer); err != nil {
			return fmt.Errorf("mount %s: %w", cfg.Path, err)
		}
	}
	ch := m.origin.use()
	wait := timeout
	if ch.heads.Known(treeName(cfg)) != nil {
		wait = min(wait, freshWait)
	}
	ctx, cancel := context.WithTimeout(m.life, wait)
	found := ch.heads.Look(ctx, treeName(cfg))
	if found.Head != nil {
		ch.heads.Tell(found)
	}
	ch.users.Done()
	cancel()
	if found.Head == nil {
		return fmt.Errorf("mount %s: %w", cfg.Path, found.Err)
	}
	// Who waited in vain for the store has time left for what is nearer.
	ctx, cancel = context.WithTimeout(m.life, timeout)
	defer cancel()
	if err := c.show(ctx, m, found.Head, found.Fresh); err != nil {
		return err
	}
	if !found.Fresh {
		c.said(wanted{m.origin, treeName(cfg)}, []*mount{m}, look{problem: problemOf(found.Err), err: found.Err})
		c.lookSoon()
	}
	return nil
}
