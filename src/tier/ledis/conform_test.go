package ledis_test

import (
	"testing"

	"github.com/mediocregopher/radix/v4"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/ledis"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

// database is at addr; set puts a blob there in another way.
type database struct {
	addr string
	set  func(t *testing.T, ref tier.Ref, stored []byte)
}

// behind is a tier with a relay between it and a database.
func behind(start func(*testing.T) database) func(*testing.T) tiertest.Harness {
	return func(t *testing.T) tiertest.Harness {
		db := start(t)
		r := newRelay(t, db.addr)
		l := open(t, ledis.Config{Addr: r.addr()})
		all := map[tier.Ref][]byte{}
		return tiertest.Harness{
			Source: l,
			Put: func(ref tier.Ref, stored []byte) {
				all[ref] = stored
				db.set(t, ref, stored)
			},
			Fault: func(f tiertest.Fault) bool {
				switch f {
				case tiertest.Flipped, tiertest.Truncated: // there, not on the way
					for ref, b := range all {
						b = append([]byte(nil), b...)
						b[len(b)/2] ^= 1
						if f == tiertest.Truncated {
							b = b[:len(b)/2]
						}
						db.set(t, ref, b)
					}
				default:
					r.set(f)
				}
				return true
			},
		}
	}
}

func TestConformsRedis(t *testing.T) {
	addr, _ := redisServer(t)
	tiertest.Run(t, behind(func(t *testing.T) database {
		c, err := radix.Dial(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		do := func(t *testing.T, a radix.Action) {
			t.Helper()
			if err := c.Do(t.Context(), a); err != nil {
				t.Fatal(err)
			}
		}
		do(t, radix.Cmd(nil, "FLUSHALL")) // each case begins with nothing
		return database{addr, func(t *testing.T, ref tier.Ref, stored []byte) {
			t.Helper()
			do(t, radix.FlatCmd(nil, "HSET", "files:"+ref.Domain, ref.Digest.String(), stored))
		}}
	}))
}

func TestConformsAysCache(t *testing.T) {
	tiertest.Run(t, behind(func(t *testing.T) database {
		addr, db := aysCache(t)
		return database{addr, func(t *testing.T, ref tier.Ref, stored []byte) {
			t.Helper()
			if err := db.DeleteBlob(t.Context(), ref.Domain, ref.Digest); err != nil {
				t.Fatal(err)
			}
			stored = stored[:min(len(stored), object.MaxBlob)] // it keeps no larger ones
			if err := db.PutBlob(t.Context(), ref.Domain, ref.Digest, stored); err != nil {
				t.Fatal(err)
			}
		}}
	}))
}
