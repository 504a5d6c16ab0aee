package server

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/profile"
	"github.com/aysfs/aysfs/src/tier/store"
)

// route is what a request is about.
type route int

const (
	routePage route = iota
	routeHealth
	routeMetrics
	routeClient
	routeStor
	routeMount
	routeListing
	routeHead
	routeProfile
	routePutProfile
	routeTreeProfile
	routeTrees
	routeBlob
	routeBatch
	routePut
	routePutHead
	routeWrong
	routes // how many there are
)

func (r route) String() string {
	return [...]string{"page", "healthz", "metrics", "client", "stor", "mount", "md", "head", "profile", "put_profile", "tree_profile", "trees", "blob", "batch", "put", "put_head", "wrong"}[r]
}

// request is what the line of a request says.
type request struct {
	route  route
	name   string // of a store
	client string
	mount  string
	path   string // of a directory, from what the mount shows, with '/' between names
	tree   object.TreeName
	domain string
	digest digest.Digest

	fetch   fetchMode
	subtree bool
	stor    string
}

// parseRequest reads method, path and query. The path is taken as it was sent:
// nothing is cleaned, and each segment is unescaped on its own.
func parseRequest(method string, u *url.URL) (request, error) {
	segments, err := splitPath(u.EscapedPath())
	if err != nil {
		return request{route: routeWrong}, err
	}
	q, err := parsePath(segments)
	if err != nil {
		return request{route: routeWrong}, err
	}
	want := "GET or HEAD"
	allowed := method == http.MethodGet || method == http.MethodHead
	switch q.route {
	case routeClient, routeStor, routeMount, routeBatch:
		want, allowed = "POST", method == http.MethodPost
	case routeBlob, routeHead:
		want = "GET, HEAD or PUT"
		if method == http.MethodPut {
			allowed = true
			q.route = map[route]route{routeBlob: routePut, routeHead: routePutHead}[q.route]
		}
	case routeProfile:
		want = "GET, HEAD or POST"
		if method == http.MethodPost {
			allowed, q.route = true, routePutProfile
		}
	}
	if !allowed {
		return request{route: routeWrong}, fmt.Errorf("method %.20q: use %s here", method, want)
	}
	if err := q.parseQuery(u.RawQuery); err != nil {
		return request{route: routeWrong}, err
	}
	return q, nil
}

// maxSegments is how deep a path may be: more than any that a file system has.
const maxSegments = 2048

// splitPath returns the segments of an escaped path, unescaped. The last one is
// empty where the path ends in a slash.
func splitPath(escaped string) ([]string, error) {
	rest, ok := strings.CutPrefix(escaped, "/")
	if !ok {
		return nil, errors.New("the path must begin with /")
	}
	if strings.Count(rest, "/") > maxSegments {
		return nil, errors.New("the path is too deep")
	}
	segments := strings.Split(rest, "/")
	for i, s := range segments {
		name, err := url.PathUnescape(s)
		if err != nil {
			return nil, fmt.Errorf("the path can't be read: %w", err)
		}
		switch {
		case name == "" && i == len(segments)-1:
		case name == "", name == ".", name == "..":
			return nil, fmt.Errorf("the path has a segment %q", name)
		case strings.ContainsAny(name, "/\x00"):
			return nil, fmt.Errorf("the path has a segment with a slash or a NUL in it: %q", name)
		}
		segments[i] = name
	}
	return segments, nil
}

var errNoRoute = errors.New("there is nothing by this path: see /ays, /md/<client>/<mount>/<path> and /<domain>/<digest>")

func parsePath(s []string) (request, error) {
	switch s[0] {
	case "":
		return request{route: routePage}, nil
	case "healthz", "metrics":
		if len(s) != 1 {
			return request{}, errNoRoute
		}
		if s[0] == "metrics" {
			return request{route: routeMetrics}, nil
		}
		return request{route: routeHealth}, nil
	case "ays":
		return parseAnnouncement(s[1:])
	case "md":
		return parseMD(s)
	}
	if err := object.ValidateDomain(s[0]); err != nil {
		return request{}, err
	}
	switch len(s) {
	case 1:
		return request{route: routeBatch, domain: s[0]}, nil
	case 2:
		d, err := digest.Parse(s[1])
		return request{route: routeBlob, domain: s[0], digest: d}, err
	}
	return request{}, errNoRoute
}

func parseAnnouncement(s []string) (request, error) {
	switch {
	case len(s) == 2 && s[0] == "client":
		return request{route: routeClient, client: s[1]}, checkNames(s[1])
	case len(s) == 2 && s[0] == "stor":
		return request{route: routeStor, name: s[1]}, checkNames(s[1])
	case len(s) == 3 && s[0] == "mount":
		return request{route: routeMount, client: s[1], mount: s[2]}, checkNames(s[1], s[2])
	case len(s) == 3 && s[0] == "profile":
		return request{route: routeProfile, client: s[1], mount: s[2]}, checkNames(s[1], s[2])
	}
	return request{}, errNoRoute
}

// checkNames refuses names that can't be, or that look like an ays.id: a path
// with one leads to a tree's head.
func checkNames(names ...string) error {
	for _, n := range names {
		if err := config.CheckName(n); err != nil {
			return err
		}
		if isTreeID(n) {
			return fmt.Errorf("%q can't be a name here: it is an ays.id", n)
		}
	}
	return nil
}

func isTreeID(s string) bool { return object.TreeName{ID: s}.Validate() == nil }

// parseMD tells a tree's head from a mount's directory. One of the first two
// segments is an ays.id for the former and not for the latter, see checkNames.
func parseMD(s []string) (request, error) {
	if len(s) == 2 && s[1] == object.TreesFile {
		return request{route: routeTrees}, nil
	}
	if len(s) < 3 {
		return request{}, errNoRoute
	}
	if isTreeID(s[1]) || isTreeID(s[2]) {
		last := len(s) - 1
		n, err := object.ParseTreeDir(strings.Join(s[:last], "/"))
		switch s[last] {
		case "head":
			return request{route: routeHead, tree: n}, err
		case profile.File:
			return request{route: routeTreeProfile, tree: n}, err
		}
		return request{}, errors.New("the path of a tree must end in /head or /profile")
	}
	q := request{route: routeListing, client: s[1], mount: s[2], path: strings.TrimSuffix(strings.Join(s[3:], "/"), "/")}
	for _, name := range s[3:] {
		if len(name) > object.MaxName {
			return request{}, fmt.Errorf("the path has a name of %d bytes: at most %d", len(name), object.MaxName)
		}
	}
	return q, checkNames(s[1], s[2])
}

func (q *request) parseQuery(raw string) error {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return fmt.Errorf("the query can't be read: %w", err)
	}
	q.fetch = fetchKeep
	if v, ok := values["fetch"]; ok {
		if len(v) != 1 || len(v[0]) != 1 || v[0][0] < '0' || v[0][0] > '3' {
			return fmt.Errorf("fetch=%.20q: write 0, 1, 2 or 3", strings.Join(v, ","))
		}
		q.fetch = fetchMode(v[0][0] - '0')
	}
	switch v := values.Get("subtree"); v {
	case "", "0":
	case "1":
		q.subtree = true
	default:
		return fmt.Errorf("subtree=%.20q: write 0 or 1", v)
	}
	q.stor = values.Get("stor")
	return nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(rw http.ResponseWriter, r *http.Request) { s.serve(rw, r, false) }

// serve answers one request. root is the machine's own, who may see all.
func (s *Server) serve(rw http.ResponseWriter, r *http.Request, root bool) {
	// A blob may lie in a mapped file. Should somebody cut that short it costs the
	// answer, not the server.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	c := &call{r: r, w: &writer{ResponseWriter: rw, server: s, stall: s.current.Load().stall}}
	defer s.account(c)()
	rw.Header()[cacheHeader] = s.instanceValue
	if len(r.TransferEncoding) > 0 {
		// It may have had a length, too, by which whoever is in between went (RFC 9112,
		// 6.1): what comes next on this connection is of nobody in particular.
		rw.Header().Set("Connection", "close")
	}
	q, err := parseRequest(r.Method, r.URL)
	c.request = q
	if err != nil {
		c.wrong(http.StatusBadRequest, err.Error())
		return
	}
	via, loop := s.viaOf(r)
	if loop {
		s.loops.Add(1)
		s.log.Warn("a request came in a loop: two caches are each other's stores", "op", "http", "route", q.route.String())
		c.wrong(http.StatusLoopDetected, "this request has been here before: caches are each other's stores")
		return
	}
	c.via, c.hint = via, strings.TrimRight(cmp.Or(q.stor, r.Header.Get(storHeader)), "/")
	if root {
		c.rights = rights{all: true}
	} else if !s.admit(c) {
		return
	}
	s.dispatch(c)
}

// storHeader, or stor=, names the store that a request is about, by its URL or by
// the name that it has here: heads come from it alone, since others may have trees
// of the same name, and it is asked for blobs before others.
const storHeader = store.StorHeader

// admit checks who asks, and answers who may not.
func (s *Server) admit(c *call) bool {
	if c.route == routeHealth {
		return true
	}
	gate := s.current.Load().gate
	if gate.closed() && !gate.opens(c.r) {
		c.w.Header().Set("WWW-Authenticate", `Basic realm="aysfs", charset="UTF-8"`)
		c.wrong(http.StatusUnauthorized, "this cache wants a login")
		return false
	}
	var what shown
	c.rights, what = s.rightsOf(c.r.Context(), s.stores.now.Load(), c.r, gate.closed())
	// A wrong token is told whatever it is sent with, so that nothing can be
	// learned from it. Clients may send basic auth to all caches, as some want it;
	// other caches send what is to be a store's here, and have to know if it isn't.
	fromCache := c.via != "" && (c.route == routeHead || c.route == routeTrees)
	if what.wrongToken || what.wrongLogin && fromCache {
		if what.wrongLogin {
			c.w.Header().Set("WWW-Authenticate", `Basic realm="aysfs", charset="UTF-8"`)
		}
		c.wrong(http.StatusUnauthorized, "the "+tokenHeader+" or the login is worth nothing here: tell of the store anew")
		return false
	}
	return true
}

func (s *Server) dispatch(c *call) {
	switch c.route {
	case routePage:
		s.getPage(c)
	case routeHealth:
		s.getHealth(c)
	case routeMetrics:
		s.getMetrics(c)
	case routeClient:
		s.postClient(c)
	case routeStor:
		s.postStor(c)
	case routeMount:
		s.postMount(c)
	case routeListing:
		s.getListing(c)
	case routeHead:
		s.getHead(c)
	case routeProfile:
		s.getProfile(c)
	case routePutProfile:
		s.postProfile(c)
	case routeTreeProfile:
		s.getTreeProfile(c)
	case routeTrees:
		s.getTrees(c)
	case routeBlob:
		s.getBlob(c)
	case routeBatch:
		s.postBatch(c)
	case routePut:
		s.putBlob(c)
	case routePutHead:
		s.putHead(c)
	}
}

// getHealth answers as long as the server does.
func (s *Server) getHealth(c *call) {
	c.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	c.w.Header().Set("Cache-Control", "no-store")
	c.send([]byte("ok\n"), "")
}

// Root answers the same routes for the machine's root, who may see all.
func (s *Server) Root() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, true) })
}
