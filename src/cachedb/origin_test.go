package cachedb

import (
	"errors"
	"fmt"
	"testing"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/server"
	"github.com/aysfs/aysfs/src/tier"
)

func TestOrigins(t *testing.T) {
	addr, _ := redisServer(t)
	redis, err := Dial(t.Context(), RemoteOptions{Addrs: []string{addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer redis.Close()
	ledis, err := Dial(t.Context(), RemoteOptions{Addrs: []string{serveLedis(t, "")}})
	if err != nil {
		t.Fatal(err)
	}
	defer ledis.Close()
	for name, db := range map[string]server.Data{"embedded": openEmbedded(t, t.TempDir()), "redis": redis, "ledis": ledis} {
		t.Run(name, func(t *testing.T) { testOrigins(t, db) })
	}
}

func testOrigins(t *testing.T, db server.Data) {
	ctx := t.Context()
	const n = 3*originPage + 7
	of := func(i int) digest.Digest { return digest.Of(fmt.Append(nil, i)) }
	for i := range n {
		if err := db.PutOrigin(ctx, "default", of(i), fmt.Append(nil, "from ", i)); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := db.Origin(ctx, "default", of(3)); err != nil || string(v) != "from 3" {
		t.Errorf("got %q, %v", v, err)
	}
	if _, err := db.Origin(ctx, "other", of(3)); !errors.Is(err, tier.ErrAbsent) {
		t.Errorf("of another domain: %v", err)
	}
	seen := make(map[digest.Digest]bool)
	if err := db.Origins(ctx, "default", func(d digest.Digest) error {
		seen[d] = true
		return db.DeleteOrigin(ctx, "default", d)
	}); err != nil || len(seen) != n {
		t.Errorf("%d of %d, %v", len(seen), n, err)
	}
	if _, err := db.Origin(ctx, "default", of(3)); !errors.Is(err, tier.ErrAbsent) {
		t.Errorf("deleted: %v", err)
	}
	if err := db.Origins(ctx, "default", func(digest.Digest) error { return errors.New("there is one") }); err != nil {
		t.Error(err)
	}
}
