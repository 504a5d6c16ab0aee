package config

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/rootfs"
)

// Store is [[ays.stor]].
type Store struct {
	Name       string
	URL        *url.URL // http, https or file; its path doesn't end in a slash
	Login      string
	Secret     Secret
	Keys       []string      // the publisher's, as object.ParseKey reads them; none: heads need no signature
	CA         string        // path of a PEM file with a certificate; empty: the system's roots
	Expiration time.Duration // of what caches keep from this store; 0: never
}

func storeSchema(at string) schema {
	return schema{
		{at, tables},
		{at + ".name", text},
		{at + ".url", text},
		{at + ".login", text},
		{at + ".secret", secret},
		{at + ".key", some},
		{at + ".ca", text},
		{at + ".cache.expiration", whole},
	}
}

func readStore(n node, names named) Store {
	s := Store{
		Keys:       readKeys(n),
		CA:         parsed(n, "ca", "", n.doc.parseCA),
		Expiration: n.hours("cache.expiration", 0),
	}
	s.Login, s.Secret = n.credentials("login", "secret")
	if n.has("name", `"jumpscale"`) {
		s.Name = parsed(n, "name", "", parseName)
		names.add(n, "name", s.Name)
	}
	if n.has("url", `"https://files.example.org/files"`) {
		s.URL = parsed(n, "url", "", urlOf("http", "https", "file"))
	}
	return s
}

// ParseStoreURL reads the URL of a store that is told over the network: http or
// https, without a login.
func ParseStoreURL(text string) (*url.URL, error) { return urlOf("http", "https")(text) }

// CheckName says what is wrong with the name of a client, a store or a mount that is
// told over the network.
func CheckName(s string) error {
	if s == "" {
		return errors.New("there is no name: write one")
	}
	_, err := parseName(s)
	return err
}

// readKeys reads one key or a list of them.
func readKeys(n node) []string {
	if n.text("key", "?") == "" {
		return nil // as if it were not there
	}
	c, _ := n.get("key", some)
	nodes := n.some("key")
	if len(nodes) == 0 && c.is(some) {
		c.problem("", "the list is empty: write a public key into it, or leave the line out where heads need no signature")
	}
	var keys []string
	lines := make(map[string]int)
	for _, e := range nodes {
		s, err := parsePublicKey(e.value.(string))
		if err != nil {
			e.problem("", "%v", err)
			continue
		}
		// With an end for one and none for the other, there would be none.
		key := strings.Fields(s)[0]
		if line, twice := lines[key]; twice {
			e.problem("", "this key is on line %d already: write it once", line)
			continue
		}
		lines[key] = e.line
		keys = append(keys, s)
	}
	return keys
}

func parsePublicKey(s string) (string, error) {
	s = strings.TrimSpace(s)
	_, err := object.ParseKey(s)
	switch {
	case errors.Is(err, object.ErrPrivateKey):
		return "", fmt.Errorf("%w: write the public key", err)
	case err != nil:
		return "", fmt.Errorf("this is not a public key (%w): write it as the publisher has it, name+hash+key, or with the last serial it is good for, name+hash+key until 17", err)
	}
	return s, nil
}

// maxCA is the most bytes of certificates that a file can have; the roots of
// a whole system are a quarter of that.
const maxCA = 1 << 20

// parseCA checks that a file has at least one that can be used.
func (doc *document) parseCA(path string) (string, error) {
	if _, err := parsePath(path); err != nil {
		return path, err
	}
	here := path
	if doc.image != "" {
		var err error
		if here, err = rootfs.Path(doc.image, path); err != nil {
			return path, fmt.Errorf("can't be read: %w: write the path of a PEM file in the image, or leave it empty", err)
		}
	}
	data, err := readRegular(here, maxCA)
	if err != nil {
		return path, fmt.Errorf("can't be read: %w: write the path of a PEM file, or leave it empty", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(data) {
		return path, fmt.Errorf("%s has no PEM certificate: write the path of a file that has one", quote(path))
	}
	return path, nil
}
