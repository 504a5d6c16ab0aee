package server

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// memory is a Data, and a Disk, in memory.
type memory struct {
	mu    sync.Mutex
	hash  map[string]map[string][]byte
	lent  int
	limit map[string]time.Time // of Expire
	gets  map[string]int       // how often get was asked, by what is before a colon of hash

	trees func(op string) error // where it is set, called first to put and to drop what there is of trees
}

// onTrees has f called first whenever something of a tree is put or dropped.
func (m *memory) onTrees(f func(op string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trees = f
}

func (m *memory) tree(op string) error {
	m.mu.Lock()
	f := m.trees
	m.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(op)
}

func newMemory() *memory {
	return &memory{hash: make(map[string]map[string][]byte), limit: make(map[string]time.Time), gets: make(map[string]int)}
}

func (m *memory) get(hash, field string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	kind, _, _ := strings.Cut(hash, ":")
	m.gets[kind]++
	v, ok := m.hash[hash][field]
	if !ok {
		return nil, fmt.Errorf("%s %q: %w", hash, field, tier.ErrAbsent)
	}
	return v, nil
}

func (m *memory) put(hash, field string, v []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hash[hash] == nil {
		m.hash[hash] = make(map[string][]byte)
	}
	m.hash[hash][field] = bytes.Clone(v)
	return nil
}

func (m *memory) del(hash, field string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.hash[hash], field)
	return nil
}

func (m *memory) fields(hash string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.hash[hash]))
}

func (m *memory) Blob(_ context.Context, domain string, d digest.Digest) (tier.Blob, error) {
	v, err := m.get("files:"+domain, d.String())
	if err != nil {
		return tier.Blob{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lent++
	return tier.NewBlob(v, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.lent--
	}), nil
}

func (m *memory) HasBlob(_ context.Context, domain string, d digest.Digest) (bool, error) {
	_, err := m.get("files:"+domain, d.String())
	return err == nil, nil
}

func (m *memory) PutBlob(ctx context.Context, domain string, d digest.Digest, stored []byte) error {
	if ok, _ := m.HasBlob(ctx, domain, d); ok {
		return nil
	}
	return m.put("files:"+domain, d.String(), stored)
}

func (m *memory) DeleteBlob(_ context.Context, domain string, d digest.Digest) error {
	return m.del("files:"+domain, d.String())
}

func (m *memory) Domains(context.Context) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for h := range m.hash {
		if name, ok := bytes.CutPrefix([]byte(h), []byte("files:")); ok {
			names = append(names, string(name))
		}
	}
	return names, nil
}

func (m *memory) Origin(_ context.Context, domain string, d digest.Digest) ([]byte, error) {
	return m.get("ays:from:"+domain, d.String())
}

func (m *memory) PutOrigin(_ context.Context, domain string, d digest.Digest, from []byte) error {
	return m.put("ays:from:"+domain, d.String(), from)
}

func (m *memory) DeleteOrigin(_ context.Context, domain string, d digest.Digest) error {
	return m.del("ays:from:"+domain, d.String())
}

func (m *memory) Origins(_ context.Context, domain string, each func(digest.Digest) error) error {
	for _, f := range m.fields("ays:from:" + domain) {
		d, err := digest.Parse(f)
		if err == nil {
			err = each(d)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) PutHead(_ context.Context, n object.TreeName, note []byte) error {
	if err := m.tree("head"); err != nil {
		return err
	}
	return m.put("md:"+n.Dir()[3:], "", note)
}

func (m *memory) PutListing(_ context.Context, n object.TreeName, dir string, listing []byte) error {
	if err := m.tree("listing"); err != nil {
		return err
	}
	return m.put("md:"+n.Dir()[3:], "/"+dir, listing)
}

func (m *memory) DropTree(_ context.Context, n object.TreeName) error {
	if err := m.tree("drop"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.hash, "md:"+n.Dir()[3:])
	return nil
}

func (m *memory) Value(_ context.Context, table, key string) ([]byte, error) {
	return m.get("ays:"+table, key)
}

func (m *memory) Values(_ context.Context, table string) (map[string][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.hash["ays:"+table]), nil
}

func (m *memory) PutValue(_ context.Context, table, key string, v []byte) error {
	return m.put("ays:"+table, key, v)
}

func (m *memory) DeleteValue(_ context.Context, table, key string) error {
	return m.del("ays:"+table, key)
}

func (m *memory) Usage() []Usage {
	names, _ := m.Domains(context.Background())
	var all []Usage
	for _, n := range names {
		all = append(all, Usage{Domain: n, Blobs: int64(len(m.fields("files:" + n))), Bytes: 1})
	}
	return all
}

func (m *memory) Expire(_ context.Context, domain string, before time.Time) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limit[domain] = before
	return 0, nil
}
