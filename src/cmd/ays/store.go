package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier/store"
)

// storeFlags are the flags that say which store to read, and how.
type storeFlags struct {
	flag, prefix                 string // -flag names the store, others start with -prefix
	where, login, secretFile, ca string
}

func (s *storeFlags) add(fs *flag.FlagSet) {
	s.addAs(fs, "store", "", "the store")
}

// addAs is add for a command that takes two stores.
func (s *storeFlags) addAs(fs *flag.FlagSet, name, prefix, what string) {
	s.flag, s.prefix = name, prefix
	fs.StringVar(&s.where, name, "", what+": a `directory`, or a file, http or https URL")
	fs.StringVar(&s.login, prefix+"login", "", "`name` to log in with to what -"+name+" names")
	fs.StringVar(&s.secretFile, prefix+"secret-file", "", "`file` with the secret that goes with -"+prefix+"login")
	fs.StringVar(&s.ca, prefix+"ca", "", "`file` with roots (PEM) to trust besides the system's")
}

// open returns the store, which answers already if it is a directory.
func (s *storeFlags) open() (store.Store, error) {
	cfg, err := s.config()
	if err != nil {
		return nil, err
	}
	return store.New(cfg)
}

// overHTTP tells whether the store is asked over HTTP.
func (s *storeFlags) overHTTP() bool {
	return strings.HasPrefix(s.where, "http://") || strings.HasPrefix(s.where, "https://")
}

// patience is how long a cache may take to have all it got on its disk.
const patience = 10 * time.Minute

// openCache returns the cache that the store is, to publish to.
func (s *storeFlags) openCache() (*store.HTTP, error) {
	cfg, err := s.config()
	if err != nil {
		return nil, err
	}
	cfg.Patience = patience
	// Heads are to be those that were published to it, not another store's.
	cfg.Asking = func(h http.Header) { h.Set(store.StorHeader, object.PublishedStore) }
	return store.NewHTTP(cfg)
}

func (s *storeFlags) config() (store.Config, error) {
	var cfg store.Config
	if s.where == "" {
		return cfg, fmt.Errorf("-%s is needed", s.flag)
	}
	u, err := storeURL(s.where)
	if err != nil {
		return cfg, err
	}
	if (s.login == "") != (s.secretFile == "") {
		return cfg, fmt.Errorf("-%[1]slogin and -%[1]ssecret-file go together", s.prefix)
	}
	if u.User != nil {
		return cfg, fmt.Errorf("a login in the URL is for everybody to see: use -%[1]slogin and -%[1]ssecret-file", s.prefix)
	}
	cfg = store.Config{Name: u.Host, URL: u, Login: s.login, CA: s.ca, Version: version}
	if u.Scheme == "file" {
		cfg.Name = u.Path
		// A store that is not there would look like one that is empty.
		if info, err := os.Stat(u.Path); err != nil {
			return cfg, fmt.Errorf("store: %w", err)
		} else if !info.IsDir() {
			return cfg, fmt.Errorf("store: %s is not a directory", u.Path)
		}
	}
	if s.secretFile != "" {
		secret, err := os.ReadFile(s.secretFile)
		if err != nil {
			return cfg, fmt.Errorf("read the store's secret: %w", err)
		}
		cfg.Secret = strings.TrimRight(string(secret), "\r\n")
	}
	return cfg, nil
}

// treesOf are the trees of a store that a command is about: the one that flags name, or
// all where they name none.
func treesOf(ctx context.Context, st store.Store, named object.TreeName) ([]object.TreeName, error) {
	if named.ID != "" {
		return []object.TreeName{named}, named.Validate()
	}
	trees, err := st.Trees(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the store's trees: %w", err)
	}
	return trees, nil
}

// storeURL is the URL of a store that may be given as a directory.
func storeURL(where string) (*url.URL, error) {
	if strings.Contains(where, "://") {
		u, err := url.Parse(where)
		if err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
		return u, nil
	}
	dir, err := filepath.Abs(where)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return &url.URL{Scheme: "file", Path: dir}, nil
}
