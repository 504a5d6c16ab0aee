package cachedb

import (
	"context"

	"github.com/mediocregopher/radix/v4"

	"github.com/aysfs/aysfs/src/digest"
)

// A blob's origin is what a cache server notes of where it is from, in words of
// its own. It is kept for each domain in one more hash that nobody sees from
// outside:
//
//	ays:from:<domain>   hash   digest -> origin
//
// It stays when its blob goes; the cache server sees to that. Like a blob, what
// was put just before a crash may be lost.

func originKey(domain string) string { return tablePrefix + "from:" + domain }

// originPage is how many origins are read at a time.
const originPage = 500

// Origin returns a blob's origin.
func (e *Embedded) Origin(ctx context.Context, domain string, d digest.Digest) ([]byte, error) {
	v, err := e.get(ctx, originKey(domain), d.String())
	return v, wrap("get an origin of "+domain, err)
}

// PutOrigin keeps a blob's origin.
func (e *Embedded) PutOrigin(ctx context.Context, domain string, d digest.Digest, from []byte) error {
	return wrap("put an origin of "+domain, e.set(ctx, originKey(domain), d.String(), from))
}

// DeleteOrigin forgets a blob's origin.
func (e *Embedded) DeleteOrigin(ctx context.Context, domain string, d digest.Digest) error {
	return wrap("delete an origin of "+domain, e.del(ctx, originKey(domain), d.String()))
}

// Origins calls each for the blobs of a domain that have an origin, until it
// returns an error. each may delete it.
func (e *Embedded) Origins(ctx context.Context, domain string, each func(digest.Digest) error) error {
	var last []byte
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		page, err := e.db.HScan([]byte(originKey(domain)), last, originPage, false, "")
		if err != nil {
			return wrap("list the origins of "+domain, err)
		}
		if len(page) == 0 {
			return nil
		}
		for _, p := range page {
			last = p.Field
			if err := eachOrigin(string(p.Field), each); err != nil {
				return err
			}
		}
	}
}

// eachOrigin passes over fields that are no digests: they are not ours.
func eachOrigin(field string, each func(digest.Digest) error) error {
	d, err := digest.Parse(field)
	if err != nil {
		return nil
	}
	return each(d)
}

// Origin returns a blob's origin.
func (r *Remote) Origin(ctx context.Context, domain string, d digest.Digest) ([]byte, error) {
	return r.get(ctx, "get the origin of "+d.Short()+" of "+domain, originKey(domain), d.String())
}

// PutOrigin keeps a blob's origin.
func (r *Remote) PutOrigin(ctx context.Context, domain string, d digest.Digest, from []byte) error {
	return r.conn.Set(ctx, "put the origin of "+d.Short()+" of "+domain, originKey(domain), d.String(), from)
}

// DeleteOrigin forgets a blob's origin.
func (r *Remote) DeleteOrigin(ctx context.Context, domain string, d digest.Digest) error {
	return r.conn.Delete(ctx, "delete the origin of "+d.Short()+" of "+domain, originKey(domain), d.String())
}

// Origins calls each for the blobs of a domain that have an origin, until it
// returns an error. each may delete it; one may come twice.
func (r *Remote) Origins(ctx context.Context, domain string, each func(digest.Digest) error) error {
	cmd, cursor := "HSCAN", "0"
	if r.conn.Ledis() {
		cmd, cursor = "XHSCAN", ""
	}
	for {
		var pairs []string
		err := r.conn.Do(ctx, "list the origins of "+domain, radix.Tuple{&cursor, &pairs}, cmd, originKey(domain), cursor, "COUNT", "500")
		if err != nil {
			return err
		}
		for i := 0; i+1 < len(pairs); i += 2 {
			if err := eachOrigin(pairs[i], each); err != nil {
				return err
			}
		}
		if cursor == "" || cursor == "0" {
			return nil
		}
	}
}
