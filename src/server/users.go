package server

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"sync"

	"golang.org/x/crypto/bcrypt"

	"github.com/aysfs/aysfs/src/config"
)

// gate lets in who has a login of [[http.user]], or everybody if there is none.
type gate struct {
	users map[string]config.User
	write bool   // one of them may publish
	decoy []byte // a hash to compare with where there is no such user; nil if none is hashed
	key   [32]byte

	// hashing bounds how much of the machine wrong passwords may take.
	hashing chan struct{}
	mu      sync.Mutex
	known   map[[sha256.Size]byte]bool // GUARDED_BY(mu); how a login with its password was decided
}

// maxKnown bounds gate.known.
const maxKnown = 4096

func newGate(users []config.User) *gate {
	g := &gate{
		users: make(map[string]config.User), known: make(map[[sha256.Size]byte]bool),
		hashing: make(chan struct{}, 1),
	}
	rand.Read(g.key[:])
	for _, u := range users {
		g.users[u.Login] = u
		g.write = g.write || u.Write
		if u.Hashed() {
			g.decoy = []byte(u.Passwd.Reveal())
		}
	}
	return g
}

func (g *gate) closed() bool { return len(g.users) > 0 }

// opens tells whether a request brings a login and its password.
func (g *gate) opens(r *http.Request) bool {
	login, passwd, ok := r.BasicAuth()
	if !ok {
		return false
	}
	sum := g.sum(login, passwd)
	g.mu.Lock()
	right, known := g.known[sum]
	g.mu.Unlock()
	if known {
		return right
	}
	right, ok = g.right(r, login, passwd)
	if !ok {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.known) >= maxKnown {
		clear(g.known)
	}
	g.known[sum] = right
	return right
}

// writes tells whether who sent a request that opens may publish.
func (g *gate) writes(r *http.Request) bool {
	login, _, ok := r.BasicAuth()
	return ok && g.users[login].Write
}

// sum stands for a login with its password, in memory and for comparisons that
// take as long whatever the two have in common.
func (g *gate) sum(login, passwd string) [sha256.Size]byte {
	m := hmac.New(sha256.New, g.key[:])
	m.Write([]byte(login + "\x00" + passwd))
	return [sha256.Size]byte(m.Sum(nil))
}

// right compares a password. ok is false if the caller left before its turn.
func (g *gate) right(r *http.Request, login, passwd string) (right, ok bool) {
	u, exists := g.users[login]
	if !exists || u.Hashed() {
		hash := g.decoy
		if exists {
			hash = []byte(u.Passwd.Reveal())
		}
		if hash == nil {
			return false, true
		}
		select {
		case g.hashing <- struct{}{}:
			defer func() { <-g.hashing }()
		case <-r.Context().Done():
			return false, false
		}
		return bcrypt.CompareHashAndPassword(hash, []byte(passwd)) == nil && exists, true
	}
	got, want := g.sum(login, passwd), g.sum(login, u.Passwd.Reveal())
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1, true
}
