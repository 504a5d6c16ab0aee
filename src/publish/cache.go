package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// Cache is an ays_cache that takes what is published, as store.HTTP is.
type Cache interface {
	tier.Source
	tier.HeadSource
	// HasBlob tells whether the cache has a blob among what is published to it.
	HasBlob(ctx context.Context, domain string, d digest.Digest) (bool, error)
	// PutBlob has the cache keep a blob in stored form. fresh is false if it had it.
	PutBlob(ctx context.Context, domain string, d digest.Digest, stored []byte) (fresh bool, err error)
	// PutHead has the cache take a tree's newest head. It returns once the cache
	// would have it, and all that it needs, after a crash.
	PutHead(ctx context.Context, tree object.TreeName, raw []byte) error
}

// How often a cache is asked that doesn't answer, and the first pause, which
// doubles.
const (
	cacheTries = 6
	cachePause = 200 * time.Millisecond
)

// maxKnownBlobs bounds cacheTarget.known.
const maxKnownBlobs = 1 << 18

// cacheTarget is a cache that a tree is published to.
type cacheTarget struct {
	ctx    context.Context // of the publish
	cache  Cache
	tree   object.TreeName
	domain string
	codec  *object.Codec
	packs  sync.Pool // of *[]byte that packed blobs are made in

	mu    sync.Mutex
	known map[digest.Digest]bool // guarded by mu: blobs that are there, or on their way by somebody else's put

	newBlobs, newBytes atomic.Int64
}

func newCacheTarget(ctx context.Context, cache Cache, tree object.TreeName, domain string, codec *object.Codec) *cacheTarget {
	t := &cacheTarget{ctx: ctx, cache: cache, tree: tree, domain: domain, codec: codec, known: make(map[digest.Digest]bool)}
	t.packs.New = func() any { b := make([]byte, 0, object.MaxBlob); return &b }
	return t
}

// begin asks for something, to learn early whether we may write.
func (t *cacheTarget) begin() error {
	_, err := t.has(digest.Of(nil))
	return err
}

// again calls ask until the cache answers.
func (t *cacheTarget) again(ask func() error) error {
	pause := cachePause
	for try := 1; ; try++ {
		err := ask()
		switch {
		case err == nil || t.ctx.Err() != nil || try == cacheTries:
			return err
		case !errors.Is(err, tier.ErrUnavailable) || errors.Is(err, tier.ErrRefused):
			return err
		}
		wait := pause
		if busy, ok := errors.AsType[*tier.BusyError](err); ok {
			wait = max(wait, min(busy.After, cachePause<<cacheTries))
		}
		select {
		case <-t.ctx.Done():
			return context.Cause(t.ctx)
		case <-time.After(wait):
		}
		pause *= 2
	}
}

// claim tells whether the caller is to put a blob.
func (t *cacheTarget) claim(d digest.Digest) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known[d] {
		return false
	}
	if len(t.known) >= maxKnownBlobs {
		clear(t.known) // costs a question each
	}
	t.known[d] = true
	return true
}

func (t *cacheTarget) put(plain []byte) (digest.Digest, error) {
	d := digest.Of(plain)
	if !t.claim(d) {
		return d, nil // if that fails the publish does
	}
	if there, err := t.has(d); err != nil || there {
		return d, err
	}
	buf := t.packs.Get().(*[]byte)
	defer t.packs.Put(buf)
	stored := t.codec.Pack(plain, *buf)
	fresh := false
	err := t.again(func() error {
		f, err := t.cache.PutBlob(t.ctx, t.domain, d, stored)
		fresh = fresh || f
		return err
	})
	if err != nil {
		return d, fmt.Errorf("put blob %v: %w", d, err)
	}
	if fresh {
		t.newBlobs.Add(1)
		t.newBytes.Add(int64(len(stored)))
	}
	return d, nil
}

func (t *cacheTarget) has(d digest.Digest) (there bool, err error) {
	err = t.again(func() error {
		there, err = t.cache.HasBlob(t.ctx, t.domain, d)
		return err
	})
	return there, err
}

// seen asks nothing: the cache checks all that a head reaches when it takes it.
func (t *cacheTarget) seen(digest.Digest) (bool, error) { return true, nil }

func (t *cacheTarget) read(ref tier.Ref) (plain []byte, err error) {
	ref.Domain = t.domain
	err = t.again(func() error {
		_, plain, err = fetchChecked(t.ctx, t.cache, t.codec, ref)
		return err
	})
	return plain, err
}

// spool makes it where temporary files are: the cache may be on another machine.
func (t *cacheTarget) spool() (*os.File, error) { return nameless(os.CreateTemp("", "ays-*")) }

// finish has nothing to wait for.
func (t *cacheTarget) finish() error { return nil }

func (t *cacheTarget) added() (blobs, bytes int64) { return t.newBlobs.Load(), t.newBytes.Load() }

func (t *cacheTarget) current() (h *object.Head, raw []byte, err error) {
	err = t.again(func() error {
		raw, err = t.cache.Head(t.ctx, t.tree, nil)
		return err
	})
	if errors.Is(err, tier.ErrAbsent) {
		return nil, nil, nil
	}
	if err == nil {
		raw = bytes.Clone(raw)
		h, err = object.OpenHeadOf(t.tree, raw, nil)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the current head: %w", err)
	}
	return h, raw, nil
}

// replace puts the head with the next serial. If somebody else publishes the tree
// at the time, the cache refuses one of the two.
func (t *cacheTarget) replace(h *object.Head, now time.Time, signers []note.Signer, public object.Keys) (changed bool, err error) {
	current, currentRaw, err := t.current()
	if err != nil {
		return false, err
	}
	var last int64
	if current != nil {
		last = current.Serial
	}
	raw, err := next(h, current, currentRaw, last, now, signers, public)
	if err != nil || raw == nil {
		return false, err
	}
	if err := t.again(func() error { return t.cache.PutHead(t.ctx, t.tree, raw) }); err != nil {
		return false, fmt.Errorf("replace the head: %w", err)
	}
	return true, nil
}
