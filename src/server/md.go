package server

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tinylib/msgp/msgp"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// Headers of a listing's answer, which say what else is needed to read the files
// in it.
const (
	domainHeader = "Aysfs-Domain"
	treeHeader   = "Aysfs-Tree"
	serialHeader = "Aysfs-Serial"
)

// msgpackType is registered with IANA.
const msgpackType = "application/vnd.msgpack"

// getListing answers GET /md/<client>/<mount>/<path>.
func (s *Server) getListing(c *call) {
	st, m, err := s.mountOf(c)
	if err != nil {
		c.nothing(err)
		return
	}
	reply, err := s.listing(c.r.Context(), st, m, c.path, c.subtree, c.fetch.first())
	if err != nil && c.fetch == fetchBehind {
		key := behindKey{"md/" + c.client + "/" + c.mount + "/" + c.path + strconv.FormatBool(c.subtree), c.asker.key()}
		c.started(s.later(key, func(ctx context.Context) {
			if _, err := s.listing(ctx, st, m, c.path, c.subtree, fetchKeep); err != nil {
				s.log.Debug("fetch behind", "op", "md", "store", st.name, "err", err)
			}
		}))
		return
	}
	if err != nil {
		c.nothing(err)
		return
	}
	s.sendListing(c, reply)
}

// mountOf finds the mount that a request is about, and its store, for who may read that.
func (s *Server) mountOf(c *call) (*stor, Mount, error) {
	m, ok := s.announced.mount(c.client, c.mount)
	st := s.stores.now.Load().byName[m.Store]
	if !ok || st == nil || !c.asker.may(st) {
		return nil, m, tier.ErrAbsent
	}
	s.announced.seen(c.client)
	return st, m, nil
}

// listingReply is what a listing's answer is made of.
type listingReply struct {
	v   *version
	all []dirListing // of which the first is the one asked for
}

func (s *Server) listing(ctx context.Context, st *stor, m Mount, path string, subtree bool, mode fetchMode) (*listingReply, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Config.Stor.Timeout)
	defer cancel()
	v, err := st.heads.newest(ctx, m.Tree, mode, s.opts.Config.Stor.Refresh)
	if err != nil {
		return nil, err
	}
	l := s.lister(st, v, mode)
	defer l.end()
	full := strings.Trim(m.Remote+"/"+path, "/")
	dir, err := l.dir(ctx, full)
	if err != nil {
		return nil, err
	}
	if subtree {
		all, err := l.below(ctx, full, m.Remote, dir.Digest)
		return &listingReply{v, all}, err
	}
	list, err := l.at(ctx, full, dir.Digest)
	return &listingReply{v, []dirListing{{path, list}}}, err
}

func (s *Server) sendListing(c *call, reply *listingReply) {
	h := c.w.Header()
	h.Set(domainHeader, reply.v.head.Domain)
	h.Set(treeHeader, headerText(reply.v.head.Tree.String()))
	h.Set(serialHeader, strconv.FormatInt(reply.v.head.Serial, 10))
	h.Set("Vary", "Accept, "+tokenHeader)
	h.Set("Cache-Control", "private, no-cache")
	asJSON := accepts(c.r.Header, "Accept", "application/json") && !accepts(c.r.Header, "Accept", msgpackType)
	var body []byte
	switch {
	case c.subtree && asJSON:
		body = mustJSON(jsonSubtree(reply.all))
	case c.subtree:
		body = msgpackSubtree(reply.all)
	case asJSON:
		body = mustJSON(jsonListing(reply.all[0].list))
	default:
		body = reply.all[0].list.Raw()
	}
	h.Set("Content-Type", msgpackType)
	etag := ""
	if asJSON {
		h.Set("Content-Type", "application/json")
	}
	if !c.subtree { // which may have more next time, of the same
		etag = listingTag(reply.all[0].list, asJSON)
	}
	c.send(body, etag)
}

// headerText is text that a header can have: an ays.id may have any letters.
func headerText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return '?'
		}
		return r
	}, s)
}

func msgpackSubtree(all []dirListing) []byte {
	b := msgp.AppendArrayHeader(nil, uint32(len(all)))
	for _, d := range all {
		b = msgp.AppendArrayHeader(b, 2)
		b = msgp.AppendBytes(b, []byte(d.path))
		b = msgp.AppendBytes(b, d.list.Raw())
	}
	return b
}

// jsonEntry is an entry of a listing as JSON. What is not UTF-8 is there in
// base64 as well.
type jsonEntry struct {
	Name        string `json:"name"`
	NameBytes   []byte `json:"name_bytes,omitempty"`
	Kind        string `json:"kind"`
	Mode        string `json:"mode"` // octal
	Size        int64  `json:"size"`
	Mtime       string `json:"mtime"`
	Digest      string `json:"digest,omitempty"`
	Chunked     bool   `json:"chunked,omitempty"`
	Target      string `json:"target,omitempty"`
	TargetBytes []byte `json:"target_bytes,omitempty"`
}

func jsonListing(l *object.Listing) []jsonEntry {
	list := make([]jsonEntry, 0, l.Len())
	for i := range l.Len() {
		e := l.At(i)
		j := jsonEntry{
			Name: string(e.Name), Kind: e.Kind.String(), Mode: "0" + strconv.FormatUint(uint64(e.Mode), 8), Size: e.Size,
			Mtime: time.Unix(0, e.Mtime).UTC().Format(time.RFC3339Nano), Chunked: e.Chunked, Target: string(e.Target),
		}
		if !e.Digest.IsZero() {
			j.Digest = e.Digest.String()
		}
		if !utf8.Valid(e.Name) {
			j.NameBytes = e.Name
		}
		if !utf8.Valid(e.Target) {
			j.TargetBytes = e.Target
		}
		list = append(list, j)
	}
	return list
}

func jsonSubtree(all []dirListing) [][2]any {
	list := make([][2]any, 0, len(all))
	for _, d := range all {
		list = append(list, [2]any{d.path, jsonListing(d.list)})
	}
	return list
}

// mustJSON is for values that always can be JSON.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return append(b, '\n')
}
