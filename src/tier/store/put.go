package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// StorHeader tells a cache which of its stores a request is about, by name or URL.
const StorHeader = "Aysfs-Stor"

// publishedHere makes a question about what is published to a cache itself.
const publishedHere = "fetch=0&stor=" + object.PublishedStore

// maxLine is how much is read of what an answer says about an error, in bytes.
const maxLine = 1 << 10

// HasBlob tells whether a cache has a blob among what is published to it. Who may
// not publish there is told so.
func (h *HTTP) HasBlob(ctx context.Context, domain string, d digest.Digest) (bool, error) {
	status, err := h.send(ctx, http.MethodHead, domain+"/"+d.String(), publishedHere, nil)
	return status == http.StatusOK, err
}

// PutBlob has a cache keep a blob in stored form. fresh is false if it had it.
func (h *HTTP) PutBlob(ctx context.Context, domain string, d digest.Digest, stored []byte) (fresh bool, err error) {
	status, err := h.send(ctx, http.MethodPut, domain+"/"+d.String(), "", stored)
	return status == http.StatusCreated, err
}

// PutHead has a cache take the newest head of a tree.
func (h *HTTP) PutHead(ctx context.Context, tree object.TreeName, raw []byte) error {
	_, err := h.send(ctx, http.MethodPut, tree.URLPath()+"/head", "", raw)
	return err
}

// send makes one request and returns its status if that is no error. To a HEAD,
// 404 is none.
func (h *HTTP) send(ctx context.Context, method, path, query string, body []byte) (int, error) {
	u, err := h.url(path)
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %w: %w", h.name, tier.ErrUnavailable, tier.ErrRefused, err)
	}
	u.RawQuery = strings.Trim(u.RawQuery+"&"+query, "&")
	status, err := h.sendTo(ctx, method, u.String(), body)
	if err != nil && ctx.Err() != nil {
		err = tier.Unavailable(context.Cause(ctx))
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %s %s: %w", h.name, method, bare(u), err)
	}
	return status, nil
}

func (h *HTTP) sendTo(ctx context.Context, method, url string, body []byte) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(h.ctx, func() { cancel(context.Canceled) })()
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("%w: %w: %w", tier.ErrUnavailable, tier.ErrRefused, err)
	}
	req.Header.Set("User-Agent", h.agent)
	if h.login != "" {
		req.SetBasicAuth(h.login, h.secret)
	}
	if h.asking != nil {
		h.asking(req.Header)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return 0, unanswered(err)
	}
	defer resp.Body.Close()
	watched := watch(resp.Body, h.limits.stall, cancel)
	defer watched.stop()
	line, err := io.ReadAll(io.LimitReader(watched, maxLine))
	switch {
	case method == http.MethodHead && resp.StatusCode == http.StatusNotFound:
		return resp.StatusCode, nil
	case resp.StatusCode == http.StatusOK, resp.StatusCode == http.StatusCreated, resp.StatusCode == http.StatusNoContent:
		if err != nil {
			err = fmt.Errorf("%w: %w: %w", tier.ErrUnavailable, ErrBrokenOff, err)
		}
		return resp.StatusCode, err
	}
	return 0, h.notTaken(resp, strings.TrimSpace(string(line)))
}

// notTaken says what a status means that is no success.
func (h *HTTP) notTaken(resp *http.Response, line string) error {
	err := h.refused(resp)
	switch resp.StatusCode {
	case http.StatusForbidden:
		if line == "" {
			line = "it takes nothing of this login: a [[http.user]] of the cache's config needs write = true"
		}
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		if line == "" || resp.Header.Get("Aysfs-Cache") == "" {
			line = "only an ays_cache, of this version or later, takes what is published over HTTP"
		}
	case http.StatusInsufficientStorage:
		err = fmt.Errorf("%w: %w: status 507", tier.ErrUnavailable, tier.ErrRefused) // it doesn't pass
	}
	if line == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, line)
}
