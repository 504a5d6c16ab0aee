package config

import (
	"net/url"
	"strconv"
	"time"
)

// Disk is [cache.disk]: the client's own cache.
type Disk struct {
	Path       string
	MaxSize    int64 // bytes, 16 MiB or more
	MinFree    MinFree
	Expiration time.Duration // since last fetched; 0: never
}

// DefaultSeed is where a seed is looked for unless the config says otherwise.
const DefaultSeed = "/usr/share/aysfs/seed"

// Seed is where what came with the machine's image lies.
type Seed struct {
	Path  string // empty: none
	Named bool   // the config has it: it should be there
	Line  int    // where it has it
}

// Local is [[cache.local]]: a ledis on this host.
type Local struct {
	Port       int
	Passwd     Secret
	Expiration time.Duration // 0: never
}

// Grid is [[cache.grid]]: an ays_cache.
type Grid struct {
	URL    *url.URL // http or https
	Login  string
	Passwd Secret
}

// readDisk returns nil where max_size is "0": that turns the cache off.
func readDisk(n node) *Disk {
	d := &Disk{
		Path:       parsed(n, "path", "/var/cache/aysfs", parsePath),
		MinFree:    parsed(n, "min_free", "5%", parseMinFree),
		Expiration: n.hours("expiration", 48),
	}
	if n.text("max_size", "") == "0" {
		return nil
	}
	d.MaxSize = parsed(n, "max_size", "10GiB", sizeFrom(16))
	return d
}

// readSeed has no path where seed is "".
func readSeed(n node) Seed {
	c, named := n.get("seed", text)
	s := Seed{Named: named}
	if named {
		s.Line = c.line
	}
	if named && c.value == "" {
		return s
	}
	s.Path = parsed(n, "seed", DefaultSeed, parsePath)
	return s
}

// checkSeed reports a seed that lies in the cache, or the other way round.
func (c *Client) checkSeed(root node) {
	if c.Seed.Named && c.Disk != nil && c.Seed.Path != "" && (within(c.Seed.Path, c.Disk.Path) || within(c.Disk.Path, c.Seed.Path)) {
		root.problem("cache.disk.seed", "%s and the disk cache's path %s are one inside the other: move one of them", quote(c.Seed.Path), quote(c.Disk.Path))
	}
}

func readLocal(list []node) []Local {
	var all []Local
	ports := named{}
	for _, n := range list {
		l := Local{Port: n.port("port"), Passwd: n.secret("passwd"), Expiration: n.hours("expiration", 48)}
		if l.Port != 0 {
			ports.add(n, "port", strconv.Itoa(l.Port))
			all = append(all, l)
		}
	}
	return all
}

func readGrid(list []node) []Grid {
	var all []Grid
	urls := named{}
	for _, n := range list {
		g := Grid{}
		g.Login, g.Passwd = n.credentials("login", "passwd")
		if n.has("url", `"http://192.168.2.1:8080"`) {
			if g.URL = parsed(n, "url", "", urlOf("http", "https")); g.URL != nil {
				urls.add(n, "url", g.URL.String())
			}
		}
		all = append(all, g)
	}
	return all
}
