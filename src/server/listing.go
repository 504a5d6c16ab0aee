package server

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tree"
)

// lister reads the listings of one tree at one head.
type lister struct {
	server *Server
	stor   *stor
	v      *version
	tree   *tree.Tree
	keep   bool // put into the data what was not

	got []dirListing // to be put into the data
}

// passMemory is for the decoded metadata of a request that keeps none, in bytes.
const passMemory = 4 << 20

func (s *Server) lister(st *stor, v *version, mode fetchMode) *lister {
	l := &lister{server: s, stor: st, v: v}
	switch mode {
	case fetchKeep:
		l.tree, l.keep = s.open.get(s, st, v).keep, !st.private.Load()
	case fetchPass:
		l.tree = tree.New(v.head, blobsFrom{s, st, false}, tree.NewCache(passMemory))
	default:
		l.tree = s.open.get(s, st, v).here
	}
	return l
}

// at returns the listing d of the directory path, which is from the tree's root.
func (l *lister) at(ctx context.Context, path string, d digest.Digest) (*object.Listing, error) {
	list, err := l.tree.Listing(ctx, path, d)
	if err == nil && l.keep && l.v.first(path) {
		l.got = append(l.got, dirListing{path, list})
	}
	return list, err
}

// dir returns the entry of the directory path; tier.ErrAbsent if the tree has no
// such one.
func (l *lister) dir(ctx context.Context, path string) (object.Entry, error) {
	at, e := "", l.tree.Root()
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue // of the root alone
		}
		list, err := l.at(ctx, at, e.Digest)
		if err != nil {
			return e, err
		}
		i, ok := list.Find([]byte(name))
		if ok {
			e = list.At(i)
		}
		if !ok || e.Kind != object.Dir {
			return e, fmt.Errorf("%q in %v: %w: no such directory", path, l.v.head.Tree, tier.ErrAbsent)
		}
		at = object.Join(at, name)
	}
	return e, nil
}

// dirListing is a directory and its listing.
type dirListing struct {
	path string // from where the request's paths are
	list *object.Listing
}

// maxSubtree bounds the listings of a subtree, in bytes as they are sent.
const maxSubtree = 1 << 20

// below returns a directory's listing and those of the directories below it,
// breadth first, as long as they fit. Where one can't be had it ends.
func (l *lister) below(ctx context.Context, path, prefix string, d digest.Digest) ([]dirListing, error) {
	first, err := l.at(ctx, path, d)
	if err != nil {
		return nil, err
	}
	all := []dirListing{{path, first}}
	size := subtreeSize(path, first)
	for i := 0; i < len(all); i++ {
		for j := range all[i].list.Len() {
			e := all[i].list.At(j)
			if e.Kind != object.Dir {
				continue
			}
			if size+e.Size > maxSubtree {
				return l.shown(all, prefix), nil
			}
			child := object.Join(all[i].path, string(e.Name))
			list, err := l.at(ctx, child, e.Digest)
			if err != nil {
				if errors.Is(err, context.Canceled) {
					return nil, err
				}
				return l.shown(all, prefix), nil
			}
			if size += subtreeSize(child, list); size > maxSubtree {
				return l.shown(all, prefix), nil
			}
			all = append(all, dirListing{child, list})
		}
	}
	return l.shown(all, prefix), nil
}

// subtreeSize bounds what a directory takes as MessagePack.
func subtreeSize(path string, l *object.Listing) int64 {
	const headers = 1 + 5 + 5
	return int64(len(path)+len(l.Raw())) + headers
}

// shown makes paths relative to what a mount shows.
func (l *lister) shown(all []dirListing, prefix string) []dirListing {
	for i := range all {
		all[i].path = strings.TrimPrefix(strings.TrimPrefix(all[i].path, prefix), "/")
	}
	return all
}

// end puts what was read into the data, behind the answer.
func (l *lister) end() {
	if len(l.got) == 0 {
		return
	}
	s, n, got := l.server, l.v.head.Tree, l.got
	s.later(behindKey{n.Dir() + "/" + got[0].path, "listings"}, func(ctx context.Context) {
		for _, d := range got {
			err := s.marks.unlessPrivate(l.stor.id, func() error {
				return s.opts.Data.PutListing(ctx, n, d.path, d.list.Raw())
			})
			if err != nil {
				s.log.Warn("can't keep listings", "op", "md", "tree", n.String(), "err", err)
				return
			}
		}
	})
}
