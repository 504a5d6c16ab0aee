package main

import (
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/publish"
)

// publishedHead is what -json prints of a head that was published: all that
// rollback and promote do, and the first of what publish does.
type publishedHead struct {
	ID        string        `json:"id"`
	RepoID    string        `json:"repoid,omitempty"`
	Platform  string        `json:"platform,omitempty"`
	Domain    string        `json:"domain"`
	Unchanged bool          `json:"unchanged"`
	Serial    int64         `json:"serial"`
	Time      time.Time     `json:"time"`
	Root      digest.Digest `json:"root"`
	Key       string        `json:"key,omitempty"` // names of the keys that signed the head
}

func newPublishedHead(res publish.Result, signers []note.Signer) publishedHead {
	names := make([]string, len(signers))
	for i, s := range signers {
		names[i] = s.Name()
	}
	return publishedHead{
		ID: res.Tree.ID, RepoID: res.Tree.RepoID, Platform: res.Tree.Platform, Domain: res.Domain,
		Unchanged: res.Unchanged, Serial: res.Serial, Time: res.Time, Root: res.Root, Key: strings.Join(names, ", "),
	}
}

// what says for people what became of the head.
func (h publishedHead) what() string {
	if h.Unchanged {
		return "unchanged"
	}
	return "published"
}
