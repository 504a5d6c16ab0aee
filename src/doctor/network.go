package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/ledisconn"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
	"github.com/aysfs/aysfs/src/tree"
)

// metadataMemory bounds the listings in memory, in bytes.
const metadataMemory = 8 << 20

// What is taken for wrong.
const (
	clockOff  = time.Minute         // a clock
	nearlyOut = 21 * 24 * time.Hour // a certificate with less left
)

// clock keeps how far a server's clock is from this one's.
type clock struct {
	mu   sync.Mutex
	off  time.Duration
	told bool
}

// answered looks at the Date of an answer, which is that of whole seconds.
func (c *clock) answered(h http.Header) {
	at, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off, c.told = time.Until(at), true
}

func (c *clock) findings(about string) []Finding {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.told || c.off.Abs() < clockOff {
		return nil
	}
	side := "behind"
	if c.off < 0 {
		side = "ahead of"
	}
	return []Finding{{Warn, about, fmt.Sprintf("the clock here is %v %s the server's", c.off.Abs().Round(time.Second), side),
		"set the clock, and keep it so with ntp: certificates and expirations go by it"}}
}

// unreached is what a failed request to a cache or store at u means.
func unreached(about string, u *url.URL, err error) Finding {
	local, denied := u.Scheme == "file", errors.Is(err, tier.ErrDenied)
	do := "check its url, name service, network and firewall"
	switch {
	case local && denied:
		do = "run this as root, or let who runs it read the store's directory"
	case local:
		do = "check its url, and that what its directory is on is mounted"
	case denied:
		do = "check its login and secret in the config"
	}
	return Finding{Fail, about, err.Error(), do}
}

// stor checks a store and the heads of the trees that mounts want of it.
func stor(ctx context.Context, s config.Store, mounts []config.Mount, version string) (found []Finding) {
	about := "store " + s.Name + " " + s.URL.Redacted()
	keys, err := object.ParseKeys(s.Keys)
	if err != nil {
		return []Finding{{Fail, about, err.Error(), "write the publisher's public key"}}
	}
	found = certificate(ctx, about, s.URL)
	var c clock
	src, err := store.New(store.Config{
		Name: s.Name, URL: s.URL, Login: s.Login, Secret: s.Secret.Reveal(), CA: s.CA,
		Timeout: each, Version: version, Answered: c.answered,
	})
	if err != nil {
		return append(found, Finding{Fail, about, err.Error(), "mend its table in the config"})
	}
	defer src.Close()
	asked := false
	for _, m := range mounts {
		if m.Store != s.Name {
			continue
		}
		asked = true
		found = append(found, headOf(ctx, src, s.URL, keys, about, m))
	}
	if !asked {
		found = append(found, reached(about, s.URL, emptyGet(ctx, src)))
	}
	return append(found, c.findings(about)...)
}

// headOf checks the head of the tree that a mount wants.
func headOf(ctx context.Context, src store.Store, u *url.URL, keys object.Keys, about string, m config.Mount) Finding {
	name := object.TreeName{ID: m.ID, RepoID: m.RepoID, Platform: m.Platform}
	about += ", tree " + name.String()
	var raw []byte
	var err error
	for _, n := range tree.Candidates(name) {
		if raw, err = src.Head(ctx, n, nil); !errors.Is(err, tier.ErrAbsent) {
			name = n
			break
		}
	}
	switch {
	case errors.Is(err, tier.ErrAbsent):
		return Finding{Fail, about, "the store does not have it", "publish it, or check ays.id, ays.repoid and platform of the mount at " + m.Path}
	case err != nil:
		return unreached(about, u, err)
	}
	h, err := object.OpenHead(raw, keys)
	switch {
	case errors.Is(err, object.ErrUnsigned):
		return Finding{Fail, about, err.Error(), "give the store the key of who publishes it, once you know that it is theirs"}
	case err != nil:
		return Finding{Fail, about, err.Error(), "what answers is not a store, or it is damaged: see ays verify"}
	case h.Tree != name:
		return Finding{Fail, about, "the store gives the head of " + h.Tree.String(), "see ays verify: somebody may have moved it there"}
	case m.Domain != "" && h.Domain != m.Domain:
		return Finding{Fail, about, "the tree is in domain " + h.Domain, "set the mount's dedupe_domain to that, or leave it out"}
	case time.Until(h.Time) > clockOff:
		return Finding{Warn, about, "its head is of " + h.Time.Format(time.RFC3339) + ", in the future", "set the clock here, or the publisher's"}
	}
	codec, err := object.NewCodec(1)
	if err == nil {
		_, err = tree.NewView(ctx, tree.New(h, blobs{src, codec}, tree.NewCache(metadataMemory)), m.Remote, nil)
	}
	switch {
	case errors.Is(err, tier.ErrUnavailable), errors.Is(err, tier.ErrDenied):
		return unreached(about, u, err)
	case errors.Is(err, tier.ErrAbsent), errors.Is(err, tier.ErrCorrupt):
		return Finding{Fail, about, err.Error(), "mend the store: see ays verify -repair"}
	case err != nil:
		return Finding{Fail, about, err.Error(), "check remote of the mount at " + m.Path}
	}
	signed := "signed by a key of the config"
	if len(keys) == 0 {
		signed = "not checked for a signature: the store has no key"
	}
	return Finding{OK, about, fmt.Sprintf("serial %d of %s, %s", h.Serial, h.Time.Format(time.RFC3339), signed), ""}
}

// blobs are a store's.
type blobs struct {
	store store.Store
	codec *object.Codec
}

// Copy gets a blob and checks it.
func (b blobs) Copy(ctx context.Context, ref tier.Ref) ([]byte, error) {
	stored, err := b.store.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	plain, err := b.codec.Unpack(ref.Digest, stored, ref.Max())
	if err != nil {
		return nil, tier.Corrupt(b.store.Name(), ref, err)
	}
	return plain, nil
}

// emptyGet asks for the blob of no bytes, which need not be there.
func emptyGet(ctx context.Context, src tier.Source) error {
	_, err := src.Get(ctx, tier.Ref{Domain: "default", Digest: digest.Of(nil), Here: true})
	return err
}

func reached(about string, u *url.URL, err error) Finding {
	if err != nil && !errors.Is(err, tier.ErrAbsent) {
		return unreached(about, u, err)
	}
	return Finding{OK, about, "it answers", ""}
}

func grid(ctx context.Context, g config.Grid, version string) []Finding {
	about := "grid cache " + g.URL.Redacted()
	found := certificate(ctx, about, g.URL)
	var c clock
	src, err := store.New(store.Config{
		Kind: "grid", Name: g.URL.Host, URL: g.URL, Login: g.Login, Secret: g.Passwd.Reveal(), Timeout: each, Version: version, Answered: c.answered,
	})
	if err != nil {
		return append(found, Finding{Fail, about, err.Error(), "mend its table in the config"})
	}
	defer src.Close()
	return append(append(found, reached(about, g.URL, emptyGet(ctx, src))), c.findings(about)...)
}

func local(ctx context.Context, l config.Local) []Finding {
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(l.Port))
	return []Finding{dial(ctx, "local cache "+addr, addr, l.Passwd.Reveal())}
}

func redis(ctx context.Context, d config.Debug) []Finding {
	addr := net.JoinHostPort(d.Addr, strconv.Itoa(d.Port))
	return []Finding{dial(ctx, "redis "+d.Name+" "+addr, addr, d.Passwd.Reveal())}
}

func dial(ctx context.Context, about, addr, passwd string) Finding {
	c, err := ledisconn.Dial(ctx, ledisconn.Options{Addrs: []string{addr}, Passwd: passwd, Conns: 1})
	switch {
	case errors.Is(err, tier.ErrDenied):
		return Finding{Fail, about, err.Error(), "check its passwd in the config"}
	case err != nil:
		return Finding{Fail, about, err.Error(), "start it, or check its address and port in the config"}
	}
	if err := c.Close(); err != nil {
		return Finding{Warn, about, err.Error(), "look at its log"}
	}
	return Finding{OK, about, "it answers", ""}
}

// certificate looks at when that of an https server ends. Whether it is to be
// trusted is for the requests to find out, which alone send anything.
func certificate(ctx context.Context, about string, u *url.URL) []Finding {
	if u.Scheme != "https" {
		return nil
	}
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, ServerName: u.Hostname()}}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443")))
	if err != nil {
		return nil // who asks for something says so
	}
	defer conn.Close()
	ends := conn.(*tls.Conn).ConnectionState().PeerCertificates[0].NotAfter
	left := time.Until(ends)
	said := "its certificate ends " + ends.Format(time.RFC3339)
	switch {
	case left < 0:
		return []Finding{{Fail, about, said, "have it renewed, or set the clock if that is wrong"}}
	case left < nearlyOut:
		return []Finding{{Warn, about, said, "have it renewed"}}
	}
	return []Finding{{OK, about, said, ""}}
}
