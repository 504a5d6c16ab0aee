package store

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/profile"
	"github.com/aysfs/aysfs/src/tier"
)

// HTTP is a store behind a web server.
type HTTP struct {
	name          string
	base          url.URL // no user, no slash at the end
	login, secret string
	agent         string
	limits        limits
	client        *http.Client
	pipeline      *pipeline // nil: without
	batches       *batches  // nil: without
	tasks         sync.WaitGroup
	behind        chan struct{}     // holds one for each request that nobody waits for
	multiplexed   atomic.Bool       // a connection carries many requests at a time
	asking        func(http.Header) // may be nil
	answered      func(http.Header) // may be nil
	maxTrees      int64             // bytes

	ctx   context.Context // done once closed
	close context.CancelFunc

	mu    sync.Mutex
	heads map[object.TreeName]validators // GUARDED_BY(mu)
}

// validators are what a server said of a head, to ask for a newer one by.
type validators struct {
	note           []byte
	etag, modified string
}

// maxValidators bounds HTTP.heads.
const maxValidators = 1024

// maxTrees bounds the list of trees where Config doesn't, in bytes.
const maxTrees = 64 << 20

// NewHTTP returns the store at cfg.URL, which is http or https. It is not asked for
// anything yet.
func NewHTTP(cfg Config) (*HTTP, error) {
	if cfg.URL.Host == "" {
		return nil, fmt.Errorf("store %s: url %s names no host", cfg.Name, cfg.URL.Redacted())
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	h := &HTTP{
		name: cfg.tierName(), base: *cfg.URL, login: cfg.Login, secret: cfg.Secret,
		agent: "aysfs/" + cfg.Version, limits: limitsFor(cfg.Timeout), heads: make(map[object.TreeName]validators),
		asking: cfg.Asking, answered: cfg.Answered,
		maxTrees: cmp.Or(cfg.MaxTrees, maxTrees),
		behind:   make(chan struct{}, maxConns-demandConns),
	}
	if u := cfg.URL.User; u != nil {
		if h.login == "" {
			h.login = u.Username()
			h.secret, _ = u.Password()
		}
		h.base.User = nil // nothing that prints the URL shows it
	}
	h.base.Path, h.base.RawPath = strings.TrimRight(cfg.URL.Path, "/"), strings.TrimRight(cfg.URL.EscapedPath(), "/")
	h.base.Fragment, h.base.RawFragment = "", ""
	h.ctx, h.close = context.WithCancel(context.Background())
	tr, err := newTransport(h.ctx, cfg, h.limits)
	if err != nil {
		h.close()
		return nil, err
	}
	h.client = &http.Client{Transport: tr, CheckRedirect: h.checkRedirect}
	if cfg.Pipeline && isPlain(h.base.Host) {
		h.pipeline = newPipeline(h.ctx, h, tr, cfg.Batches)
	}
	if cfg.Batches {
		h.batches = &batches{h: h, domains: make(map[string]*gathering)}
	}
	return h, nil
}

// Name tells the store apart.
func (h *HTTP) Name() string { return h.name }

// Close drops the connections. Calls still under way fail.
func (h *HTTP) Close() error {
	h.close()
	h.client.CloseIdleConnections()
	if h.pipeline != nil {
		h.pipeline.close()
	}
	h.tasks.Wait()
	return nil
}

// Purge leaves the store as it is: it is the publisher's. But it may be a
// connection that is wrong: see pipeline.doubt.
func (h *HTTP) Purge(_ context.Context, ref tier.Ref) error {
	if h.pipeline != nil {
		h.pipeline.doubt(ref)
	}
	return nil
}

// Get fetches a blob. Where the answer breaks off, the rest of it is asked for.
func (h *HTTP) Get(ctx context.Context, ref tier.Ref) ([]byte, error) {
	if err := checkRef(h.name, ref); err != nil {
		return nil, err
	}
	if h.batches != nil && tier.Background(ctx) && !ref.Here && viaOf(ctx) == "" {
		b, err := h.batches.get(ctx, ref)
		switch {
		case err == nil:
			return b, nil
		case !errors.Is(err, errOrdinary):
			if ctx.Err() != nil {
				err = tier.Unavailable(err)
			}
			return nil, fmt.Errorf("%s: POST %s/%s, %s: %w", h.name, bare(&h.base), ref.Domain, ref.Digest, err)
		}
	}
	a, err := h.getBlob(ctx, ref)
	if err != nil {
		return nil, err
	}
	// A login page with status 200 would be called a wrong digest later on.
	// Here it can still be said what it is.
	if isPage(a.contentType, a.data, ref) {
		return nil, tier.Corrupt(h.name, ref, fmt.Errorf("%w: content type %q, of a proxy or a login form maybe", ErrPage, a.contentType))
	}
	return a.data, nil
}

// halts is how long what somebody waits for stays behind what nobody does.
func (h *HTTP) halts() time.Duration {
	if h.pipeline == nil {
		return standstill // how far away the server is isn't known
	}
	h.pipeline.mu.Lock()
	defer h.pipeline.mu.Unlock()
	return h.pipeline.halts()
}

// Ask begins to get a blob that nobody waits for, by the pipeline.
func (h *HTTP) Ask(ref tier.Ref, answered func(stored []byte, ok bool)) tier.Asked {
	if h.pipeline == nil || h.batches != nil || ref.Here || ref.Via != "" || checkRef(h.name, ref) != nil {
		return nil
	}
	if a := h.pipeline.ask(ref, answered); a != nil {
		return a
	}
	return nil
}

// getBlob asks for a blob by the pipeline, and where that won't do in the ordinary
// way; as where the server is to answer of what it has only: what a cache has it tells
// at once, not behind what it fetches.
func (h *HTTP) getBlob(ctx context.Context, ref tier.Ref) (*answer, error) {
	query := ""
	if ref.Here {
		query = "fetch=0"
	}
	get := func() (*answer, error) {
		defer h.standBehind(ctx, ref)()
		return h.get(ctx, ref.Domain+"/"+ref.Digest.String(), query, ref.Max(), nil)
	}
	if h.pipeline == nil || ref.Here || tier.ArrivalOf(ctx).Passed() || viaOf(ctx) != "" {
		return get()
	}
	data, contentType, err := h.pipeline.get(ctx, ref)
	switch {
	case err == nil:
		return &answer{data: data, contentType: contentType}, nil
	case errors.Is(err, errOrdinary):
		return get()
	case errors.Is(err, tier.ErrAbsent) && tier.ArrivalOf(ctx) == nil:
		// It may have been the answer to another request, which no digest shows.
		// That something is not there at all is rare enough to ask once more; but not for
		// a cache, which is asked for what other stores have, and by who asks them himself.
		a, err := get()
		if err == nil {
			h.pipeline.doubt(ref)
		}
		return a, err
	case ctx.Err() != nil:
		err = tier.Unavailable(err)
	}
	return nil, fmt.Errorf("%s: GET %s/%s/%s: %w", h.name, bare(&h.base), ref.Domain, ref.Digest, err)
}

// standBehind has what nobody waits for wait where it would take the last connections,
// until somebody waits for it; not so where the server is to tell what it has, which takes
// no time. What it returns is to be called after the request.
func (h *HTTP) standBehind(ctx context.Context, ref tier.Ref) (over func()) {
	over = func() {}
	if !tier.Background(ctx) || ref.Here || h.multiplexed.Load() {
		return over
	}
	wanted := tier.Wanted(ctx)
	select {
	case <-wanted:
		return over
	default:
	}
	select {
	case h.behind <- struct{}{}:
		return func() { <-h.behind }
	case <-wanted:
	case <-ctx.Done(): // as the request will say
	case <-h.ctx.Done():
	}
	return over
}

// isPlain tells whether a host can be said in a header as it is.
func isPlain(host string) bool {
	return !strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' })
}

func isHTML(contentType string) bool {
	return strings.HasPrefix(strings.ToLower(contentType), "text/html")
}

// isPage tells whether an answer is a page for people, and not the blob.
func isPage(contentType string, data []byte, ref tier.Ref) bool {
	return isHTML(contentType) && !object.Compressed(data) && ref.Digest.Check(data) != nil
}

// Head fetches a tree's newest head, if it is another than since.
func (h *HTTP) Head(ctx context.Context, tree object.TreeName, since []byte) ([]byte, error) {
	if err := checkTree(h.name, tree); err != nil {
		return nil, err
	}
	if h.pipeline != nil {
		h.pipeline.warm()
	}
	header := http.Header{"Cache-Control": {"no-cache"}} // whoever is in between shall look, too
	h.mu.Lock()
	known, ok := h.heads[tree]
	h.mu.Unlock()
	if ok && since != nil && bytes.Equal(known.note, since) {
		setIf(header, "If-None-Match", known.etag)
		setIf(header, "If-Modified-Since", known.modified)
	}
	a, err := h.get(ctx, tree.URLPath()+"/head", "", object.MaxHead, header)
	switch {
	case err != nil:
		return nil, err
	case a.notModified:
		return since, nil
	case isHTML(a.contentType):
		if _, err := object.OpenHead(a.data, nil); err != nil {
			return nil, fmt.Errorf("%s: the head of %v: %w: %w: content type %q, of a proxy or a login form maybe", h.name, tree, tier.ErrCorrupt, ErrPage, a.contentType)
		}
	}
	h.remember(tree, a)
	if since != nil && bytes.Equal(a.data, since) {
		return since, nil
	}
	return a.data, nil
}

// remember keeps what the next request for the head can be conditional on.
// Servers make dates, and ETags too, out of a time in whole seconds: one of the
// present second may stand for the next head as well.
func (h *HTTP) remember(tree object.TreeName, a *answer) {
	v := validators{note: a.data, etag: a.etag, modified: a.modified}
	if modified, err := http.ParseTime(a.modified); err == nil && a.date.Sub(modified) < 2*time.Second {
		v = validators{}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if v.etag == "" && v.modified == "" {
		delete(h.heads, tree)
		return
	}
	if len(h.heads) >= maxValidators {
		clear(h.heads) // costs one full answer each
	}
	h.heads[tree] = v
}

// HeadAt fetches the head that a tree had at a serial.
func (h *HTTP) HeadAt(ctx context.Context, tree object.TreeName, serial int64) ([]byte, error) {
	if err := checkTree(h.name, tree); err != nil {
		return nil, err
	}
	return headAt(serial, func(file string) ([]byte, error) {
		a, err := h.get(ctx, tree.URLPath()+"/"+file, "", object.MaxHead, http.Header{"Cache-Control": {"no-cache"}})
		if err != nil {
			return nil, err
		}
		return a.data, nil
	})
}

// Profile fetches what programs need of a tree.
func (h *HTTP) Profile(ctx context.Context, tree object.TreeName) ([]byte, error) {
	if err := checkTree(h.name, tree); err != nil {
		return nil, err
	}
	a, err := h.get(ctx, tree.URLPath()+"/"+profile.File, "", profile.MaxBytes, http.Header{"Cache-Control": {"no-cache"}})
	if err != nil {
		return nil, err
	}
	return a.data, nil
}

// Trees reads the list of trees that publishing keeps.
func (h *HTTP) Trees(ctx context.Context) ([]object.TreeName, error) {
	a, err := h.get(ctx, "md/trees", "", h.maxTrees, http.Header{"Cache-Control": {"no-cache"}})
	if err != nil {
		return nil, err
	}
	var trees []object.TreeName
	lines := bufio.NewScanner(bytes.NewReader(a.data))
	for lines.Scan() {
		tree, err := object.ParseTreeDir(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("%s: md/trees, line %d: %w: %w", h.name, len(trees)+1, tier.ErrCorrupt, err)
		}
		trees = append(trees, tree)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: md/trees, line %d: %w: %w", h.name, len(trees)+1, tier.ErrCorrupt, err)
	}
	sortTrees(trees)
	return trees, nil
}

// url is the address of path, whose segments are escaped already. They stay
// spelled as they are.
func (h *HTTP) url(path string) (*url.URL, error) {
	plain, err := url.PathUnescape(path)
	if err != nil {
		return nil, err
	}
	u := h.base
	u.Path, u.RawPath = h.base.Path+"/"+plain, h.base.RawPath+"/"+path
	return &u, nil
}

// bare is a URL for messages: a query may be a signature.
func bare(u *url.URL) string {
	v := *u
	v.User, v.RawQuery, v.Fragment = nil, "", ""
	return v.String()
}

func isConditional(header http.Header) bool {
	return header.Get("If-None-Match") != "" || header.Get("If-Modified-Since") != ""
}

func setIf(header http.Header, key, value string) {
	if value != "" {
		header.Set(key, value)
	}
}

// answer is what has arrived for one object, by one request or more.
type answer struct {
	data        []byte
	notModified bool

	contentType, encoding, etag, modified string

	date  time.Time
	whole bool // ask for all of it next time, not for the rest

	arrival *tier.Arrival // is told of data; nil: nobody is interested
}

// maxDrain is how much of an answer that is of no use is read, in bytes.
const maxDrain = 4 << 10

// The rest of a body is asked for at most maxResumes times, and only if the
// request before brought minGain bytes.
const (
	maxResumes = 5
	minGain    = 4 << 10
)

// get fetches an object of up to limit bytes. query is added to the one that the
// store's URL may have.
func (h *HTTP) get(ctx context.Context, path, query string, limit int64, header http.Header) (*answer, error) {
	u, err := h.url(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w: %w", h.name, tier.ErrUnavailable, tier.ErrRefused, err)
	}
	u.RawQuery = strings.Trim(u.RawQuery+"&"+query, "&")
	a := &answer{arrival: tier.ArrivalOf(ctx)}
	for resumes := 0; ; resumes++ {
		had, whole := len(a.data), a.whole
		err := h.try(ctx, u, limit, header, a)
		switch {
		case err == nil:
			return a, nil
		case ctx.Err() != nil:
			// Whatever it looks like, this is why.
			return nil, fmt.Errorf("%s: GET %s: %w", h.name, bare(u), tier.Unavailable(context.Cause(ctx)))
		case h.ctx.Err() != nil:
			return nil, fmt.Errorf("%s: GET %s: %w: the store is closed", h.name, bare(u), tier.ErrUnavailable)
		}
		// Where little was gained, it is for the caller to wait and try again.
		gained := len(a.data)-had >= minGain || a.whole && !whole
		if !errors.Is(err, ErrBrokenOff) || !gained || resumes == maxResumes {
			return nil, fmt.Errorf("%s: GET %s: %w", h.name, bare(u), err)
		}
	}
}

// try makes one request, for what a doesn't have yet, and reads the answer.
func (h *HTTP) try(ctx context.Context, u *url.URL, limit int64, header http.Header, a *answer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(h.ctx, func() { cancel(context.Canceled) })()

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fmt.Errorf("%w: %w: %w", tier.ErrUnavailable, tier.ErrRefused, err)
	}
	maps.Copy(req.Header, header)
	h.say(ctx, req)
	from := int64(len(a.data))
	if a.whole {
		from = 0
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
		setIf(req.Header, "If-Range", a.rangeValidator())
	}
	resp, err := h.client.Do(req)
	if err != nil {
		if ctx.Err() == nil {
			// What killed this connection may have killed those that idle: a
			// machine that slept, a network that changed.
			h.client.CloseIdleConnections()
		}
		return unanswered(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor == 2 {
		h.multiplexed.Store(true)
	}
	if h.answered != nil {
		h.answered(resp.Header)
	}
	began := h.begin(resp, from, limit, a)
	if began == nil && !a.notModified {
		// Before the body is watched: it may take a while.
		if began = a.arrival.Room(ctx, wholeSize(from, resp)); began != nil {
			return began
		}
	}
	body := watch(resp.Body, h.limits.stall, cancel)
	defer body.stop()
	if err := began; err != nil || a.notModified {
		if resp.ContentLength >= 0 && resp.ContentLength <= maxDrain {
			_, _ = io.Copy(io.Discard, body) // so that the connection can be used again
		}
		return err
	}
	if err := a.read(body, resp.ContentLength, limit); err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, ErrStalled) {
			err = fmt.Errorf("%w: %w after %d bytes: %w", tier.ErrUnavailable, ErrBrokenOff, len(a.data), cause)
		}
		return err
	}
	return nil
}

// wholeSize is how many bytes an object has of which an answer brings those after the first
// from, where that is what it brings; -1 if it does not say.
func wholeSize(from int64, resp *http.Response) int64 {
	switch {
	case resp.ContentLength < 0:
		return -1
	case resp.StatusCode == http.StatusPartialContent:
		return from + resp.ContentLength
	}
	return resp.ContentLength
}

// say sets what every request says.
func (h *HTTP) say(ctx context.Context, req *http.Request) {
	req.Header.Set("User-Agent", h.agent)
	req.Header.Set("Accept-Encoding", "zstd")
	if h.login != "" {
		req.SetBasicAuth(h.login, h.secret)
	}
	if h.asking != nil {
		h.asking(req.Header)
	}
	if via := viaOf(ctx); via != "" {
		req.Header.Set(ViaHeader, via)
	}
}

// unanswered says why a request had no answer.
func unanswered(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err // it would repeat the URL
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("%w: %w: %w%s", tier.ErrUnavailable, tier.ErrRefused, err, certificateHint(err))
	}
	if errors.Is(err, ErrRedirect) {
		return fmt.Errorf("%w: %w: %w", tier.ErrUnavailable, tier.ErrRefused, err)
	}
	return fmt.Errorf("%w: %w", tier.ErrUnavailable, err)
}

// certificateHint says what helps against a certificate that can't be trusted.
func certificateHint(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return " (if its certificate is of a private authority, set ca of the store; for a cache, add the authority to the system's roots)"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return " (write the url with a name that its certificate has)"
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return " (have its certificate renewed, or set the clock of this machine if that is wrong)"
	}
	return ""
}

// begin looks at the header of an answer to a request for what comes after the
// first from bytes, and makes a ready for the body.
func (h *HTTP) begin(resp *http.Response, from, limit int64, a *answer) error {
	encoding := resp.Header.Get("Content-Encoding")
	switch {
	case resp.StatusCode == http.StatusNotModified && isConditional(resp.Request.Header):
		a.notModified = true
		return nil
	case resp.StatusCode == http.StatusOK:
		data := a.data[:0]
		if a.arrival != nil {
			data = nil // others look at what came before
		}
		*a = answer{data: data, whole: a.whole, arrival: a.arrival}
	case from > 0 && resp.StatusCode == http.StatusPartialContent:
		err := checkRange(resp.Header, from, limit)
		if err == nil && encoding != a.encoding {
			err = fmt.Errorf("content encoding %.40q after %.40q", encoding, a.encoding)
		}
		if err != nil {
			a.whole = true
			return fmt.Errorf("%w: %w: what came then is not the rest of it: %w", tier.ErrUnavailable, ErrBrokenOff, err)
		}
		return nil
	case from > 0 && resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		a.whole = true
		return fmt.Errorf("%w: %w: status 416 to the request for the rest", tier.ErrUnavailable, ErrBrokenOff)
	default:
		return h.refused(resp)
	}
	switch encoding {
	case "", "identity", "zstd": // the stored form, whatever it is called
	default:
		return fmt.Errorf("%w: %w: the answer has content encoding %.40q, which was not asked for: turn it off for this store", tier.ErrUnavailable, tier.ErrRefused, encoding)
	}
	if resp.ContentLength > limit {
		return fmt.Errorf("%w (content type %.80q)", tooLarge(resp.ContentLength, limit), resp.Header.Get("Content-Type"))
	}
	a.encoding, a.contentType = encoding, resp.Header.Get("Content-Type")
	a.etag, a.modified = resp.Header.Get("ETag"), resp.Header.Get("Last-Modified")
	a.date, _ = http.ParseTime(resp.Header.Get("Date"))
	length := resp.ContentLength
	if isHTML(a.contentType) {
		length = -1 // most likely it is no blob
	}
	a.arrival.Begin(length)
	return nil
}

// refused says what a status means that is no success.
func (h *HTTP) refused(resp *http.Response) error {
	code := resp.StatusCode
	status := strings.TrimSpace(fmt.Sprintf("status %d %s", code, http.StatusText(code)))
	switch {
	case code == http.StatusNotFound || code == http.StatusGone:
		return fmt.Errorf("%w: %s", tier.ErrAbsent, status)
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return fmt.Errorf("%w: %s: check login and secret of %s", tier.ErrDenied, status, h.name)
	case code == http.StatusLoopDetected:
		return fmt.Errorf("%w: %w: %w: %s", tier.ErrUnavailable, tier.ErrRefused, ErrLoop, status)
	case isBusy(code):
		err := fmt.Errorf("%w: %s", tier.ErrUnavailable, status)
		if code == http.StatusBadGateway {
			err = fmt.Errorf("%w: %w: %s", tier.ErrUnavailable, tier.ErrBehind, status)
		}
		if after, ok := retryAfter(resp.Header); ok {
			return &tier.BusyError{After: after, Err: err}
		}
		return err
	}
	return fmt.Errorf("%w: %w: %s", tier.ErrUnavailable, tier.ErrRefused, status)
}

// isBusy tells whether a status says that another time it may be another one.
func isBusy(code int) bool {
	return code == http.StatusRequestTimeout || code == http.StatusTooEarly || code == http.StatusTooManyRequests || code >= 500
}

// retryAfter reads Retry-After, which is a number of seconds or a date.
func retryAfter(header http.Header) (time.Duration, bool) {
	v := header.Get("Retry-After")
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second, true
	}
	t, err := http.ParseTime(v)
	if err != nil {
		return 0, false
	}
	now := time.Now()
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		now = date // by the clock that set it
	}
	return max(t.Sub(now), 0), true
}

// rangeValidator is what the rest of a body must belong to. Weak ETags won't do
// for that.
func (a *answer) rangeValidator() string {
	if a.etag != "" && !strings.HasPrefix(a.etag, "W/") {
		return a.etag
	}
	return a.modified
}

// checkRange tells what is wrong with an answer that should go on after from
// bytes.
func checkRange(header http.Header, from, limit int64) error {
	v := header.Get("Content-Range")
	first, last, total, ok := parseContentRange(v)
	if !ok {
		return fmt.Errorf("content range %.80q", v)
	}
	if first != from || last < first || last >= limit || total >= 0 && last != total-1 {
		return fmt.Errorf("content range %.80q, wanted from %d on", v, from)
	}
	return nil
}

// parseContentRange reads "bytes 5-9/10"; of "bytes 5-9/*" total is -1.
func parseContentRange(v string) (first, last, total int64, ok bool) {
	v, ok = strings.CutPrefix(v, "bytes ")
	span, size, ok1 := strings.Cut(v, "/")
	from, to, ok2 := strings.Cut(span, "-")
	first, ok3 := parseLength(from)
	last, ok4 := parseLength(to)
	total, ok5 := parseLength(size)
	if size == "*" {
		total, ok5 = -1, true
	}
	return first, last, total, ok && ok1 && ok2 && ok3 && ok4 && ok5
}

// parseLength reads a number of bytes: digits and nothing else, not even a sign.
func parseLength(v string) (int64, bool) {
	n, err := strconv.ParseUint(v, 10, 63)
	return int64(n), err == nil
}
