package config

import (
	"crypto/sha256"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/aysfs/aysfs/src/object"
)

// Mount is [[mount_files]] or [[mount_config]]. Both have the same keys.
type Mount struct {
	Name        string // unique
	Path        string // unique, absolute and clean
	Remote      string // the directory inside the tree that is mounted, without slashes around it; empty: all
	Platform    string
	ID          string           // ays.id
	RepoID      string           // ays.repoid
	Store       string           // the Name of a Store
	Debug       string           // the Name of a Debug; empty: read-only
	Redis       *Debug           // that Debug; nil: read-only
	DebugFilter []*regexp.Regexp // each matches whole paths only
	Domain      string           // empty: the one that the head names
	Prefetch    int              // 0 to 2
	Wait        time.Duration    // most that a start waits for its first head; 0 or 1s and more
	Config      bool             // it is a [[mount_config]]
	Line        int              // of its header, for messages
}

// Debug is [[debug]]: a redis that takes what is written.
type Debug struct {
	Name   string
	Addr   string // host name or IP address
	Port   int
	Passwd Secret
	// MaxSize is the most bytes that a changed file can have; redis takes 512 MiB.
	MaxSize int64
}

func mountSchema(at string) schema {
	return schema{
		{at, tables},
		{at + ".name", text},
		{at + ".path", text},
		{at + ".remote", text},
		{at + ".platform", text},
		{at + ".ays.id", text},
		{at + ".ays.repoid", text},
		{at + ".stor.name", text},
		{at + ".debug", text},
		{at + ".debug_filter", texts},
		{at + ".dedupe_domain", text},
		{at + ".prefetch", whole},
		{at + ".wait", text},
	}
}

func readDebug(n node, names named) Debug {
	d := Debug{Passwd: n.secret("redis.passwd"), MaxSize: parsed(n, "max_size", "64MiB", parseMaxSize)}
	if n.has("name", `"mydebug"`) {
		d.Name = parsed(n, "name", "", parseName)
		names.add(n, "name", d.Name)
	}
	if n.has("redis.addr", `"127.0.0.1"`) {
		d.Addr = parsed(n, "redis.addr", "", parseHost)
	}
	if n.has("redis.port", "6379") {
		d.Port = n.port("redis.port")
	}
	return d
}

// parseMaxSize reads the size of a value of redis.
func parseMaxSize(s string) (int64, error) {
	const most = 512 << 20
	n, err := sizeFrom(1)(s)
	if err == nil && n > most {
		return n, fmt.Errorf("%s is more than redis takes: write \"512MiB\" or less", quote(s))
	}
	return n, err
}

func parseHost(s string) (string, error) {
	if net.ParseIP(s) != nil {
		return s, nil
	}
	if h, _, err := net.SplitHostPort(s); err == nil {
		return "", fmt.Errorf("%s has a port in it: write %s here, and the port as redis.port", quote(s), quote(h))
	}
	if !hostRE.MatchString(s) {
		return "", fmt.Errorf("%s is neither a host name nor an IP address: write one of them", quote(s))
	}
	return s, nil
}

var hostRE = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9.])?$`)

// readMounts adds the mounts of both tables to c, in the order of the file.
// What they use must be in c already.
func readMounts(root node, c *Client) {
	nodes := slices.Concat(root.list("mount_files", tables), root.list("mount_config", tables))
	slices.SortStableFunc(nodes, func(a, b node) int { return a.line - b.line })
	names, paths := named{}, named{}
	for _, n := range nodes {
		m := readMount(n)
		if _, twice := paths[m.Path]; !twice || n.text("name", "") != "" { // else one message is enough
			names.add(n, "name", m.Name)
		}
		paths.add(n, "path", m.Path)
		m.checkPath(n, c)
		m.checkUses(n, c)
		c.Mounts = append(c.Mounts, m)
	}
}

func readMount(n node) Mount {
	m := Mount{
		Remote:      parsed(n, "remote", "", parseInside),
		Platform:    parsed(n, "platform", "", parsePlatform),
		RepoID:      parsed(n, "ays.repoid", "", parseRepoID),
		Store:       n.text("stor.name", ""),
		Debug:       n.text("debug", ""),
		DebugFilter: readFilter(n),
		Domain:      parsed(n, "dedupe_domain", "", parseDomain),
		Prefetch:    n.whole("prefetch", 1, 0, 2),
		Wait:        parsed(n, "wait", "30s", intervalOrZero(time.Second)),
		Config:      n.path == "mount_config",
		Line:        n.line,
	}
	if n.has("path", `"/opt/apps/mongodb"`) {
		m.Path = parsed(n, "path", "", parsePath)
	}
	if m.Name = parsed(n, "name", "", parseName); m.Name == "" {
		if m.Config {
			m.Name = nameOf(m.Path)
		} else {
			n.has("name", `"mongodb"`)
		}
	}
	if n.has("ays.id", `"jumpscale|mongodb(10.1.888)"`) {
		m.ID = parsed(n, "ays.id", "", parseTreeID)
	}
	n.has("stor.name", `"jumpscale"`)
	return m
}

// nameOf makes a name of a mount's path. The same path always has the same
// name, and no two paths have one in common.
func nameOf(p string) string {
	plain := strings.ReplaceAll(strings.TrimPrefix(p, "/"), "/", "-")
	if plainPath.MatchString(p) && len(plain) <= maxName {
		return plain
	}
	sum := sha256.Sum256([]byte(p))
	short := strings.Trim(notPlain.ReplaceAllString(plain, "-"), "-")
	return fmt.Sprintf("%.*s-%x", maxName-20, short, sum[:4])
}

var (
	plainPath = regexp.MustCompile(`^[A-Za-z0-9._/]*$`) // and so no '-' of its own
	notPlain  = regexp.MustCompile(`[^A-Za-z0-9._-]+`)
)

// readFilter compiles debug_filter so that each matches whole paths only.
func readFilter(n node) []*regexp.Regexp {
	var all []*regexp.Regexp
	for _, e := range n.list("debug_filter", texts) {
		s := e.value.(string)
		if strings.ContainsFunc(s, unicode.IsControl) {
			e.problem("", "%s has a control character, as \\b in double quotes makes one: write it in single quotes", quote(s))
			continue
		}
		// On its own first: only so is it sure that what is put around it is
		// not read as part of it.
		if _, err := regexp.Compile(s); err != nil {
			e.problem("", "%s is not a regular expression: %v", quote(s), err)
			continue
		}
		all = append(all, regexp.MustCompile(`\A(?:`+s+`)\z`))
	}
	return all
}

// checkPath reports a mount that would hide what the client itself needs.
func (m Mount) checkPath(n node, c *Client) {
	if !strings.HasPrefix(m.Path, "/") || m.Path == "/" {
		return // has a problem already
	}
	if c.Disk != nil && (within(m.Path, c.Disk.Path) || within(c.Disk.Path, m.Path)) {
		n.problem("path", "%s and the disk cache's path %s are one inside the other: move one of them", quote(m.Path), quote(c.Disk.Path))
	}
	if c.Seed.Named && c.Seed.Path != "" && within(m.Path, c.Seed.Path) {
		n.problem("path", "%s would hide the seed %s: move one of them", quote(m.Path), quote(c.Seed.Path))
	}
	if within(m.Path, c.Main.Control) {
		n.problem("path", "%s would hide the control socket %s: move one of them", quote(m.Path), quote(c.Main.Control))
	}
	for _, s := range c.Stores {
		if s.URL != nil && s.URL.Scheme == "file" && within(m.Path, s.URL.Path) {
			n.problem("path", "%s would hide the store %s in %s: move one of them", quote(m.Path), quote(s.Name), quote(s.URL.Path))
		}
	}
}

// within tells whether path is dir or below it.
func within(dir, path string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// checkUses reports a store or a debug that isn't there.
func (m *Mount) checkUses(n node, c *Client) {
	var stores, debugs []string
	for _, s := range c.Stores {
		stores = append(stores, s.Name)
	}
	for _, d := range c.Debug {
		debugs = append(debugs, d.Name)
	}
	// That there is no store at all is said once, not for each mount.
	if m.Store != "" && len(stores) > 0 && !slices.Contains(stores, m.Store) {
		n.problem("stor.name", "no [[ays.stor]] is named %s: there are %s", quote(m.Store), quoteAll(stores))
	}
	if i := slices.Index(debugs, m.Debug); i >= 0 {
		m.Redis = &c.Debug[i]
	} else if m.Debug != "" {
		what := "write one"
		if len(debugs) > 0 {
			what = "there are " + quoteAll(debugs)
		}
		n.problem("debug", "no [[debug]] is named %s: %s", quote(m.Debug), what)
	}
}

func parseTreeID(s string) (string, error) { return s, object.TreeName{ID: s}.Validate() }

func parseDomain(s string) (string, error) { return s, object.ValidateDomain(s) }

// anyID lets Validate look at the other parts of a tree's name alone.
const anyID = "any|any!any"

func parseRepoID(s string) (string, error) {
	return s, object.TreeName{ID: anyID, RepoID: s}.Validate()
}

func parsePlatform(s string) (string, error) {
	return s, object.TreeName{ID: anyID, Platform: s}.Validate()
}
