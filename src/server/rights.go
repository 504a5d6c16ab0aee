package server

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
)

// tokenHeader is how a token is sent: one, or several with commas between them.
const tokenHeader = "Aysfs-Token"

// maxTokens is how many of them a request may bring.
const maxTokens = 16

// rights is which private stores a request may read. Public ones it may anyway.
type rights struct {
	stores []storeID
	all    bool // of the machine's root
}

func (r rights) may(st *stor) bool {
	return !st.private.Load() || r.all || slices.Contains(r.stores, st.id)
}

// tokenFor makes the token for credentials. It is the same each time, so that
// none need be kept, and says nothing of them to who hasn't the vault's key.
func (s *Server) tokenFor(st *stor, login, secret string) string {
	sum := s.vault.sum("token", string(st.id[:]), login, secret)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// shown is what a request shows besides its rights.
type shown struct {
	wrongToken bool // a token that is worth nothing here
	wrongLogin bool // basic auth that is
}

// rightsOf reads what a request shows.
func (s *Server) rightsOf(ctx context.Context, t *storeTable, r *http.Request, gated bool) (who rights, what shown) {
	var grants []*grant
	n := 0
	for _, line := range r.Header.Values(tokenHeader) {
		for token := range strings.SplitSeq(line, ",") {
			g := t.tokens[sha256.Sum256([]byte(strings.TrimSpace(token)))]
			if n++; n > maxTokens || g == nil {
				return rights{}, shown{wrongToken: true}
			}
			grants = append(grants, g)
		}
	}
	tokens := len(grants)
	if login, secret, ok := r.BasicAuth(); ok && !gated {
		list := t.basics[s.vault.sum("basic", login, secret)]
		what.wrongLogin = len(list) == 0
		grants = append(grants, list...)
	}
	for i, g := range grants {
		switch {
		case s.usable(ctx, g):
			who.stores = append(who.stores, g.stor.id)
		case i < tokens:
			what.wrongToken = true
		default:
			what.wrongLogin = true
		}
	}
	return who, what
}
