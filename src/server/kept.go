package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"slices"
	"sync"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// held is a blob in stored form, verified.
type held struct {
	tier.Blob
	zstd   bool // it is compressed
	public bool // a public store has it
}

// kept is the blobs that the cache has, each with the stores it was had from.
type kept struct {
	data  Data
	codec *object.Codec
	limit int64 // plain bytes of one
	log   *slog.Logger

	// What can't be written, or read, costs hits, not answers.
	putting, getting complaint

	holdings holdings
	shards   [keptShards]keptShard
}

// The cards that are in memory are bounded; what has none there costs a look at
// the data, and a check of the digest.
const (
	keptShards    = 64
	cardsPerShard = 1024 // of some 150 bytes each
	maxFrom       = 16   // stores that are remembered of one blob
)

type keptShard struct {
	mu    sync.RWMutex
	cards map[blobKey]card // GUARDED_BY(mu)

	// writing is held while what the data says of a blob is changed, which
	// takes a read before the write. mu may be taken under it.
	writing sync.Mutex
}

type blobKey struct {
	domain string
	digest digest.Digest
}

// card is what is known of a blob in the data. It is not changed but replaced.
type card struct {
	from []storeID
	// What was verified, by which it is known again.
	checked bool
	size    int // of the stored form
	crc     uint32
	zstd    bool
}

func newKept(data Data, codec *object.Codec, limit int64, log *slog.Logger) *kept {
	k := &kept{
		data: data, codec: codec, limit: limit, log: log, holdings: holdings{data: data},
		putting: complaint{log: log, op: "put", bad: "can't keep blobs for now", good: "blobs are kept again"},
		getting: complaint{log: log, op: "get", bad: "can't read the data for now: what is asked for is fetched again", good: "the data is read again"},
	}
	for i := range k.shards {
		k.shards[i].cards = make(map[blobKey]card)
	}
	return k
}

func (k *kept) shard(d digest.Digest) *keptShard { return &k.shards[d[0]%keptShards] }

// get returns a blob if it was had from a store that may be read. Whatever
// else is the case, it is tier.ErrAbsent.
func (k *kept) get(ctx context.Context, domain string, d digest.Digest, may func(storeID) (ok, public bool)) (held, error) {
	key := blobKey{domain, d}
	c, atHand, err := k.card(ctx, key)
	if err != nil {
		return held{}, err
	}
	allowed, public := false, false
	for _, id := range c.from {
		ok, p := may(id)
		allowed, public = allowed || ok, public || p
	}
	if !allowed {
		if atHand {
			// What nobody has costs a look at the data. Whether somebody has this must not
			// be told by the time that one takes.
			_, _ = k.data.Origin(ctx, domain, d)
		}
		return held{}, tier.ErrAbsent
	}
	b, err := k.data.Blob(ctx, domain, d)
	if errors.Is(err, tier.ErrAbsent) {
		k.forget(ctx, key)
	}
	if err != nil {
		return held{}, err
	}
	if !c.checked || len(b.Data) != c.size || crc32.Checksum(b.Data, castagnoli) != c.crc {
		if c, err = k.check(ctx, key, c, b.Data); err != nil {
			b.Release()
			return held{}, err
		}
	}
	return held{Blob: b, zstd: c.zstd, public: public}, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// card returns what is known of a blob, from memory or from the data; atHand tells
// whether it was in memory.
func (k *kept) card(ctx context.Context, key blobKey) (c card, atHand bool, err error) {
	s := k.shard(key.digest)
	s.mu.RLock()
	c, atHand = s.cards[key]
	s.mu.RUnlock()
	if atHand {
		return c, true, nil
	}
	row, err := k.data.Origin(ctx, key.domain, key.digest)
	if err != nil {
		return c, false, err
	}
	return card{from: parseFrom(row)}, false, nil
}

func (s *keptShard) put(key blobKey, c card) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.cards[key]; !ok && len(s.cards) >= cardsPerShard {
		for other := range s.cards { // any: it costs a check, if it is asked for again
			delete(s.cards, other)
			break
		}
	}
	s.cards[key] = c
}

// check verifies what the data has by the digest. What fails is dropped there.
func (k *kept) check(ctx context.Context, key blobKey, c card, stored []byte) (card, error) {
	checked, err := k.describe(key.digest, stored)
	if err != nil {
		k.log.Warn("corrupt blob in the data", "op", "get", "domain", key.domain, "digest", key.digest, "err", err)
		if err := k.data.DeleteBlob(ctx, key.domain, key.digest); err != nil {
			k.log.Warn("drop a corrupt blob", "op", "purge", "domain", key.domain, "digest", key.digest, "err", err)
		}
		k.forget(ctx, key)
		return c, fmt.Errorf("%w: it was corrupt", tier.ErrAbsent)
	}
	checked.from = c.from
	k.shard(key.digest).put(key, checked)
	return checked, nil
}

// describe is the card of a stored blob that must have the digest.
func (k *kept) describe(d digest.Digest, stored []byte) (card, error) {
	plain, err := k.codec.Unpack(d, stored, k.limit)
	if err != nil {
		return card{}, err
	}
	return card{
		checked: true, size: len(stored), crc: crc32.Checksum(stored, castagnoli),
		zstd: len(plain) != len(stored) || len(plain) > 0 && &plain[0] != &stored[0],
	}, nil
}

// fresh is what came from a store just now, verified there.
func fresh(d digest.Digest, b tier.Blob, public bool) held {
	return held{Blob: b, zstd: isPacked(d, b.Data), public: public}
}

// isPacked tells whether a verified blob is compressed: plain ones may look so.
func isPacked(d digest.Digest, stored []byte) bool {
	return object.Compressed(stored) && d.Check(stored) != nil
}

// put keeps a verified blob that the store from has.
func (k *kept) put(ctx context.Context, domain string, d digest.Digest, stored []byte, from storeID) error {
	key := blobKey{domain, d}
	s := k.shard(d)
	s.writing.Lock()
	defer s.writing.Unlock()
	old, _, err := k.card(ctx, key)
	if err != nil && !errors.Is(err, tier.ErrAbsent) {
		return fmt.Errorf("keep %s/%v: %w", domain, d, err)
	}
	if err := k.holdings.add(ctx, domain, from); err != nil {
		return fmt.Errorf("keep %s/%v: %w", domain, d, err)
	}
	c := old
	if !old.checked {
		c = card{checked: true, size: len(stored), crc: crc32.Checksum(stored, castagnoli), zstd: isPacked(d, stored)}
		if err := k.data.PutBlob(ctx, domain, d, stored); err != nil {
			return fmt.Errorf("keep %s/%v: %w", domain, d, err)
		}
	}
	c.from = old.from
	if !slices.Contains(old.from, from) {
		// The one that gave it longest ago is forgotten first.
		c.from = append(slices.Clone(old.from[max(0, len(old.from)+1-maxFrom):]), from)
		if err := k.data.PutOrigin(ctx, domain, d, formatFrom(c.from)); err != nil {
			return fmt.Errorf("keep where %s/%v is from: %w", domain, d, err)
		}
	}
	s.put(key, c)
	return nil
}

// forget drops what is known of a blob that is not there any more.
func (k *kept) forget(ctx context.Context, key blobKey) {
	s := k.shard(key.digest)
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	delete(s.cards, key)
	s.mu.Unlock()
	// It may have come back meanwhile.
	if ok, err := k.data.HasBlob(ctx, key.domain, key.digest); ok || err != nil {
		return
	}
	if err := k.data.DeleteOrigin(ctx, key.domain, key.digest); err != nil {
		k.log.Warn("forget a blob", "op", "get", "domain", key.domain, "digest", key.digest, "err", err)
	}
}

func parseFrom(row []byte) []storeID {
	var ids []storeID
	for id := range slices.Chunk(row, len(storeID{})) {
		if len(id) == len(storeID{}) && len(ids) < maxFrom {
			ids = append(ids, storeID(id))
		}
	}
	return ids
}

func formatFrom(ids []storeID) []byte {
	var row []byte
	for _, id := range ids {
		row = append(row, id[:]...)
	}
	return row
}

// shelf is what a store's chain sees of the cache: the blobs that were had from
// that store.
type shelf struct {
	kept *kept
	id   storeID
}

func (s shelf) mine(id storeID) (ok, public bool) { return id == s.id, false }

// Get answers with the stored form.
func (s shelf) Get(ref tier.Ref) (tier.Blob, error) {
	h, err := s.kept.get(context.Background(), ref.Domain, ref.Digest, s.mine)
	return h.Blob, err
}

// Range answers with a part of the stored form.
func (s shelf) Range(ref tier.Ref, off, n int64) (tier.Blob, error) {
	b, err := s.Get(ref)
	if err != nil {
		return b, err
	}
	if off < 0 || n < 0 || off > int64(len(b.Data))-n {
		b.Release()
		return tier.Blob{}, fmt.Errorf("%w: %d bytes at %d of %d", tier.ErrCorrupt, n, off, len(b.Data))
	}
	b.Data = b.Data[off : off+n]
	return b, nil
}

// Ready leaves it to Range.
func (s shelf) Ready(tier.Ref, int64, int64) (tier.Blob, tier.Nearness) {
	return tier.Blob{}, tier.Unknown
}

// WillNeed does nothing: who asks a cache asks for whole blobs, in no order.
func (s shelf) WillNeed(tier.Ref) bool { return false }

// Copy is Get into memory of the caller's own.
func (s shelf) Copy(ref tier.Ref) ([]byte, error) {
	b, err := s.Get(ref)
	if err != nil {
		return nil, err
	}
	defer b.Release()
	return bytes.Clone(b.Data), nil
}

// Has tells whether Get would answer.
func (s shelf) Has(ref tier.Ref) bool {
	b, err := s.Get(ref)
	if err == nil {
		b.Release()
	}
	return err == nil
}

// Put keeps a blob in stored form.
func (s shelf) Put(ctx context.Context, ref tier.Ref, stored []byte) {
	if err := s.kept.put(ctx, ref.Domain, ref.Digest, stored, s.id); err == nil || ctx.Err() == nil {
		s.kept.putting.note(err, "domain", ref.Domain, "digest", ref.Digest)
	}
}

// Offer leaves it to Put, which waits.
func (s shelf) Offer(tier.Ref, tier.Blob) bool { return false }

// sweep forgets blobs that are not in the data any more.
func (k *kept) sweep(ctx context.Context) error {
	domains, err := k.data.Domains(ctx)
	if err != nil {
		return err
	}
	for _, domain := range domains {
		err := k.data.Origins(ctx, domain, func(d digest.Digest) error {
			if ok, err := k.data.HasBlob(ctx, domain, d); err == nil && !ok {
				k.forget(ctx, blobKey{domain, d})
			}
			return ctx.Err()
		})
		if err != nil {
			return err
		}
	}
	return nil
}
