package ledis

import (
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/mediocregopher/radix/v4"

	"github.com/aysfs/aysfs/src/ledisconn"
)

// record is one thing to write: a field, or, where that is empty, that the hash
// was used.
type record struct {
	key, field string
	value      []byte
}

// cost is about what a record holds, in bytes.
func (r record) cost() int64 { return int64(len(r.value)) + 256 }

// queue is what waits to be written. It takes up to most bytes, those that are
// being written included.
type queue struct {
	most int64
	more chan struct{} // holds one when there is something to take, or it is closed

	mu     sync.Mutex
	list   []record // GUARDED_BY(mu)
	bytes  int64    // GUARDED_BY(mu)
	closed bool     // GUARDED_BY(mu)
}

func newQueue(most int64) *queue { return &queue{most: most, more: make(chan struct{}, 1)} }

var errFull = errors.New("too much waits to be written already")

func (q *queue) put(r record) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.bytes+r.cost() > q.most {
		return errFull
	}
	q.list = append(q.list, r)
	q.bytes += r.cost()
	q.wake()
	return nil
}

func (q *queue) wake() {
	select {
	case q.more <- struct{}{}:
	default:
	}
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.wake()
}

// batchBytes is how much goes out at once, but for a single large record: what is
// on its way in one direction keeps answers from nobody for long.
const batchBytes = 256 << 10

// take waits for records and returns some, or none once the queue is closed and
// empty. done must be called with their cost when they need no memory any more.
func (q *queue) take() (batch []record, cost int64) {
	for {
		q.mu.Lock()
		n := 0
		for n < len(q.list) && (n == 0 || cost+q.list[n].cost() <= batchBytes) {
			cost += q.list[n].cost()
			n++
		}
		batch, q.list = q.list[:n:n], q.list[n:]
		if len(q.list) == 0 {
			q.list = nil
		}
		closed := q.closed
		q.mu.Unlock()
		if n > 0 || closed {
			return batch, cost
		}
		<-q.more
	}
}

func (q *queue) done(cost int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= cost
}

// put queues a record while writing it has a chance.
func (t *Tier) put(r record) error {
	if err := t.reads.aside(); err != nil {
		return err
	}
	if err := t.writes.aside(); err != nil {
		return err
	}
	return t.queue.put(r)
}

// write writes what is queued until the queue is closed.
func (t *Tier) write() {
	for {
		batch, cost := t.queue.take()
		if len(batch) == 0 {
			return
		}
		t.writeBatch(batch)
		clear(batch)
		t.queue.done(cost)
	}
}

// writeBatch sends all of a batch before it waits for the answers. What can't be
// written is dropped: it is a cache.
func (t *Tier) writeBatch(batch []record) {
	if t.ending.Err() != nil || t.writes.begin() != nil {
		return
	}
	err := t.call(t.ending, func(c *ledisconn.Conn) error {
		err := t.set(c, batch)
		if ledisconn.Refused(err) {
			// It is well otherwise: there is no memory left for more, say.
			t.writes.failed(err)
			return nil
		}
		if err == nil {
			t.writes.well()
			err = t.prolong(c, batch)
		}
		return err
	})
	if err != nil {
		t.writes.undecided()
	}
}

// set sends all fields of a batch, and then waits for the answers.
func (t *Tier) set(c *ledisconn.Conn, batch []record) error {
	p, n := radix.NewPipeline(), 0
	for _, r := range batch {
		if r.field != "" {
			p.Append(radix.FlatCmd(nil, "HSET", r.key, r.field, r.value))
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return c.Run(t.ending, fmt.Sprintf("write %d objects", n), p)
}

// prolong has the hashes live on that a batch says were used. That a database
// knows no such command is as well: it has an expiration of its own.
func (t *Tier) prolong(c *ledisconn.Conn, batch []record) error {
	cmd := "EXPIRE"
	if c.Ledis() {
		cmd = "HEXPIRE"
	}
	for _, r := range batch {
		if r.field != "" {
			continue
		}
		seconds := strconv.FormatInt(int64(t.cfg.Expiration.Seconds()), 10)
		if err := c.Do(t.ending, "prolong "+r.key, nil, cmd, r.key, seconds); err != nil && !ledisconn.Refused(err) {
			return err
		}
	}
	return nil
}
