package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/aysfs/aysfs/src/tier"
)

// ErrNotShown says that no mount of the client shows a path.
var ErrNotShown = errors.New("nothing to explain")

// Explainer tells of what a mount shows at an absolute path.
type Explainer func(ctx context.Context, path string) (*Explanation, error)

// Explanation says of one path where it comes from.
type Explanation struct {
	Path   string `json:"path"`
	Mount  string `json:"mount"` // the path of the mount that it is in
	Inside string `json:"inside"`
	Tree   string `json:"tree"`
	Serial int64  `json:"serial"`
	Domain string `json:"domain"`
	Store  string `json:"store"`

	Kind  string    `json:"kind"` // file, dir or symlink
	Mode  string    `json:"mode"` // octal
	Size  int64     `json:"size"` // bytes; of a directory, those of its listing
	Mtime time.Time `json:"mtime"`
	// Digest is that of the blob, the chunk list or the listing. A symlink and an empty
	// file have none.
	Digest     string `json:"digest,omitempty"`
	Target     string `json:"target,omitempty"`
	Chunks     int    `json:"chunks,omitempty"`      // of a file that is more than one blob
	ChunksHere int    `json:"chunks_here,omitempty"` // of these, those on this machine
	Note       string `json:"note,omitempty"`        // what else there is to know

	Objects []Explained `json:"objects"`
}

// Explained is one object that a path needs, and who has it.
type Explained struct {
	What   string       `json:"what"` // content, chunk list, first chunk, catalog
	Digest string       `json:"digest"`
	Here   bool         `json:"here"` // this machine has it, in its cache, seed or memory
	From   string       `json:"from"` // the tier that last gave it
	Tiers  []tier.Probe `json:"tiers"`
	// Error says why it can't be told who has what comes behind it.
	Error string `json:"error,omitempty"`
}

func explainCode(err error) int {
	if errors.Is(err, ErrNotShown) {
		return http.StatusNotFound
	}
	return http.StatusServiceUnavailable
}

// Explain asks the client that answers on socket about an absolute path. Where no
// mount shows that, the error is ErrNotShown.
func Explain(ctx context.Context, socket, path string) (*Explanation, error) {
	b, err := get(ctx, socket, "/explain?path="+url.QueryEscape(path))
	if err != nil {
		return nil, err
	}
	var e Explanation
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, fmt.Errorf("read the answer on %s: %w", socket, err)
	}
	return &e, nil
}
