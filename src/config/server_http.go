package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// HTTP is [http].
type HTTP struct {
	Listen          string // host:port; an empty host is all addresses
	TLSCert, TLSKey string // paths of PEM files; both or none
	Users           []User // none: anybody may use the cache

	MaxConnections int
	MaxHeader      int64 // bytes of a request's header
	MaxBody        int64 // bytes of a request's body
	MaxBatch       int   // digests in one request
	MaxObject      int64 // plain bytes of one object, 1 MiB or more

	HeaderTimeout time.Duration // for a request's header to arrive
	StallTimeout  time.Duration // in which a body must move on, either way
	IdleTimeout   time.Duration // of a connection between requests
}

// User is [[http.user]].
type User struct {
	Login  string
	Passwd Secret // plain, or a bcrypt hash
	Write  bool   // may publish to the cache
}

// Hashed tells whether Passwd is a bcrypt hash.
func (u User) Hashed() bool { return isBcrypt(u.Passwd.Reveal()) }

func isBcrypt(s string) bool {
	return strings.HasPrefix(s, "$2a$") || strings.HasPrefix(s, "$2b$") || strings.HasPrefix(s, "$2y$")
}

func readHTTP(n node) HTTP {
	h := HTTP{
		Listen:         parsed(n, "listen", ":8080", parseListen),
		TLSCert:        parsed(n, "tls_cert", "", parsePath),
		TLSKey:         parsed(n, "tls_key", "", parsePath),
		MaxConnections: n.whole("max_connections", 4096, 1, 1<<20),
		MaxHeader:      parsed(n, "max_header", "32KiB", sizeBetween(1<<10, 1<<20)),
		MaxBody:        parsed(n, "max_body", "1MiB", sizeBetween(1<<10, 64<<20)),
		MaxBatch:       n.whole("max_batch", 4096, 1, 1<<20),
		MaxObject:      parsed(n, "max_object", "64MiB", sizeBetween(1<<20, 256<<20)),
		HeaderTimeout:  parsed(n, "header_timeout", "10s", interval(time.Second)),
		StallTimeout:   parsed(n, "stall_timeout", "30s", interval(time.Second)),
		IdleTimeout:    parsed(n, "idle_timeout", "2m", interval(time.Second)),
	}
	switch {
	case h.TLSCert == "" && h.TLSKey != "":
		n.problem("tls_cert", "is missing: tls_key needs it")
	case h.TLSCert != "" && h.TLSKey == "":
		n.problem("tls_key", "is missing: tls_cert needs it")
	case h.TLSCert != "" && h.TLSKey != "":
		if err := checkPair(h.TLSCert, h.TLSKey); err != nil {
			n.problem("tls_cert", "can't be used with tls_key: %v: name a PEM file with the certificate, and one with its key", err)
		}
	}
	logins := named{}
	for _, u := range n.list("user", tables) {
		h.Users = append(h.Users, readUser(u, logins))
	}
	return h
}

func checkPair(cert, key string) error {
	for _, path := range []string{cert, key} {
		if err := regular(path); err != nil {
			return err
		}
	}
	_, err := tls.LoadX509KeyPair(cert, key)
	return err
}

func readUser(n node, logins named) User {
	u := User{Login: n.text("login", ""), Passwd: n.secret("passwd"), Write: n.flag("write", false)}
	if n.has("login", `"grid"`) {
		if strings.Contains(u.Login, ":") {
			n.problem("login", "%s has a colon in it, which basic auth can't send: write another one", quote(u.Login))
		}
		logins.add(n, "login", u.Login)
	}
	if p := u.Passwd.Reveal(); p == "" {
		n.problem("passwd", "is missing: write a password, or a bcrypt hash of one")
	} else if isBcrypt(p) {
		if _, err := bcrypt.Cost([]byte(p)); err != nil {
			n.problem("passwd", "starts like a bcrypt hash, but is none: write what htpasswd -nB shows behind the colon")
		}
	}
	return u
}

func parseListen(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return s, fmt.Errorf("%s is not an address to listen on: write \":8080\", or \"192.168.2.1:8080\"", quote(s))
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return s, errors.New("the port is out of range: write 1 to 65535")
	}
	if host == "" {
		return s, nil
	}
	_, err = parseHost(host)
	return s, err
}

// sizeBetween reads a size from low to high bytes.
func sizeBetween(low, high int64) func(string) (int64, error) {
	return func(s string) (int64, error) {
		n, err := parseSize(s)
		if err == nil && (n < low || n > high) {
			return 0, fmt.Errorf("%s is out of range: write \"%dKiB\" to \"%dMiB\"", quote(s), low>>10, high>>20)
		}
		return n, err
	}
}
