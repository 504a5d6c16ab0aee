package main

import (
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

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
	fs.StringVar(&s.login, prefix+"login", "", "`name` to log in to "+what+" with")
	fs.StringVar(&s.secretFile, prefix+"secret-file", "", "`file` with the secret that goes with -"+prefix+"login")
	fs.StringVar(&s.ca, prefix+"ca", "", "`file` with roots (PEM) to trust besides the system's")
}

// open returns the store, which answers already if it is a directory.
func (s *storeFlags) open() (store.Store, error) {
	if s.where == "" {
		return nil, fmt.Errorf("-%s is needed", s.flag)
	}
	u, err := storeURL(s.where)
	if err != nil {
		return nil, err
	}
	if (s.login == "") != (s.secretFile == "") {
		return nil, fmt.Errorf("-%[1]slogin and -%[1]ssecret-file go together", s.prefix)
	}
	if u.User != nil {
		return nil, fmt.Errorf("a login in the URL is for everybody to see: use -%[1]slogin and -%[1]ssecret-file", s.prefix)
	}
	cfg := store.Config{Name: u.Host, URL: u, Login: s.login, CA: s.ca, Version: version}
	if u.Scheme == "file" {
		cfg.Name = u.Path
		// A store that is not there would look like one that is empty.
		if info, err := os.Stat(u.Path); err != nil {
			return nil, fmt.Errorf("store: %w", err)
		} else if !info.IsDir() {
			return nil, fmt.Errorf("store: %s is not a directory", u.Path)
		}
	}
	if s.secretFile != "" {
		secret, err := os.ReadFile(s.secretFile)
		if err != nil {
			return nil, fmt.Errorf("read the store's secret: %w", err)
		}
		cfg.Secret = strings.TrimRight(string(secret), "\r\n")
	}
	return store.New(cfg)
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
