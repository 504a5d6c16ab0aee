package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/object"
)

// Client is what a client told of itself.
type Client struct {
	Platform string    `json:"platform,omitempty"`
	Version  string    `json:"version,omitempty"`
	Told     time.Time `json:"told"`
}

// Mount is what a client told of one of its mounts.
type Mount struct {
	Tree   object.TreeName `json:"tree"`
	Store  string          `json:"store"`
	Remote string          `json:"remote,omitempty"` // the directory inside the tree that is mounted
	Path   string          `json:"path,omitempty"`   // where, on the client
	Told   time.Time       `json:"told"`
}

// Bounds on what is remembered. Who was not heard of for the longest is forgotten.
const (
	maxClients         = 10_000
	maxMountsPerClient = 512
	maxMounts          = 50_000
)

// announced is the clients and their mounts, in memory and in the data.
type announced struct {
	data Data
	log  *slog.Logger

	mu      sync.Mutex
	clients map[string]*clientState // GUARDED_BY(mu)
	mounts  int                     // GUARDED_BY(mu); of all clients
}

type clientState struct {
	Client
	heard  time.Time // told or asked for something
	mounts map[string]Mount
}

func mountKey(client, mount string) string { return client + "\x00" + mount }

// load reads what is remembered.
func (a *announced) load(ctx context.Context) error {
	clients, err := a.data.Values(ctx, clientsTable)
	if err != nil {
		return fmt.Errorf("read the clients: %w", err)
	}
	mounts, err := a.data.Values(ctx, mountsTable)
	if err != nil {
		return fmt.Errorf("read the mounts: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.clients = make(map[string]*clientState)
	for id, row := range clients {
		var c Client
		if json.Unmarshal(row, &c) == nil && len(a.clients) < maxClients {
			a.clients[id] = &clientState{Client: c, heard: c.Told, mounts: make(map[string]Mount)}
		}
	}
	for key, row := range mounts {
		client, name, _ := strings.Cut(key, "\x00")
		var m Mount
		if c := a.clients[client]; c != nil && json.Unmarshal(row, &m) == nil && a.mounts < maxMounts {
			c.mounts[name] = m
			a.mounts++
		}
	}
	return nil
}

// putClient remembers a client.
func (a *announced) putClient(ctx context.Context, id string, c Client) error {
	a.mu.Lock()
	gone := a.room(id)
	a.clients[id].Client = c
	a.mu.Unlock()
	a.drop(ctx, gone)
	return a.write(ctx, clientsTable, id, c)
}

var errTooManyMounts = errors.New("the client has too many mounts")

// putMount remembers a mount, and its client if that said nothing yet.
func (a *announced) putMount(ctx context.Context, client, name string, m Mount) error {
	a.mu.Lock()
	known := a.clients[client] != nil
	gone := a.room(client)
	c := a.clients[client]
	if _, ok := c.mounts[name]; !ok {
		if len(c.mounts) >= maxMountsPerClient {
			a.mu.Unlock()
			return errTooManyMounts
		}
		for a.mounts >= maxMounts && len(a.clients) > 1 {
			gone = append(gone, a.forgetOne(client)...)
		}
		a.mounts++
	}
	c.mounts[name] = m
	a.mu.Unlock()
	a.drop(ctx, gone)
	if !known {
		if err := a.write(ctx, clientsTable, client, Client{Told: m.Told}); err != nil {
			return err
		}
	}
	return a.write(ctx, mountsTable, mountKey(client, name), m)
}

func (a *announced) write(ctx context.Context, table, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := a.data.PutValue(ctx, table, key, b); err != nil {
		return fmt.Errorf("remember %q: %w", key, err)
	}
	return nil
}

// tableKey is a row of the data.
type tableKey struct{ table, key string }

// room makes sure that there is a client id, heard of now, and returns the rows
// of who had to go for it. a.mu is held.
func (a *announced) room(id string) (gone []tableKey) {
	if a.clients[id] == nil {
		if len(a.clients) >= maxClients {
			gone = a.forgetOne(id)
		}
		a.clients[id] = &clientState{mounts: make(map[string]Mount)}
	}
	a.clients[id].heard = time.Now()
	return gone
}

// forgetOne forgets the client that was not heard of for the longest, but for
// spared, and returns its rows. a.mu is held.
func (a *announced) forgetOne(spared string) (gone []tableKey) {
	oldest := ""
	for id, c := range a.clients {
		if id != spared && (oldest == "" || c.heard.Before(a.clients[oldest].heard)) {
			oldest = id
		}
	}
	c := a.clients[oldest]
	if c == nil {
		return nil
	}
	delete(a.clients, oldest)
	a.mounts -= len(c.mounts)
	gone = append(gone, tableKey{clientsTable, oldest})
	for name := range c.mounts {
		gone = append(gone, tableKey{mountsTable, mountKey(oldest, name)})
	}
	return gone
}

// drop removes rows from the data.
func (a *announced) drop(ctx context.Context, gone []tableKey) {
	for _, k := range gone {
		if err := a.data.DeleteValue(ctx, k.table, k.key); err != nil {
			a.log.Warn("forget a client", "op", "announce", "table", k.table, "err", err)
		}
	}
}

// mount returns what a client told of a mount, with the platform of the client
// where the mount has none.
func (a *announced) mount(client, name string) (Mount, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.clients[client]
	if c == nil {
		return Mount{}, false
	}
	m, ok := c.mounts[name]
	if m.Tree.Platform == "" {
		m.Tree.Platform = c.Platform
	}
	return m, ok
}

// seen notes that a client asked for something.
func (a *announced) seen(client string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.clients[client]; c != nil {
		c.heard = time.Now()
	}
}

// shownClient is a client for people.
type shownClient struct {
	ID string
	Client
	Heard  time.Time
	Mounts []shownMount
	Count  int // of all its mounts
}

type shownMount struct {
	Name string
	Mount
}

// counts tells how many there are.
func (a *announced) counts() (clients, mounts int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.clients), a.mounts
}

// recent returns the clients that were heard of last, and of each some mounts.
func (a *announced) recent(clients, mounts int) []shownClient {
	a.mu.Lock()
	defer a.mu.Unlock()
	ids := slices.SortedFunc(maps.Keys(a.clients), func(x, y string) int { return a.clients[y].heard.Compare(a.clients[x].heard) })
	var list []shownClient
	for _, id := range ids[:min(clients, len(ids))] {
		c := a.clients[id]
		s := shownClient{ID: id, Client: c.Client, Heard: c.heard, Count: len(c.mounts)}
		names := slices.Sorted(maps.Keys(c.mounts))
		for _, name := range names[:min(mounts, len(names))] {
			s.Mounts = append(s.Mounts, shownMount{name, c.mounts[name]})
		}
		list = append(list, s)
	}
	return list
}
