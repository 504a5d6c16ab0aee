package config

import (
	"bytes"
	"log/slog"
	"slices"
	"time"
)

// Server is the config of ays_cache.
type Server struct {
	Main   ServerMain
	HTTP   HTTP
	Ledis  Ledis
	Stores []Store // in the order of the file
	Stor   Stor
}

// DefaultServerControl is DefaultControl for ays_cache.
const DefaultServerControl = "/run/aysfs/ays_cache.sock"

// ServerMain is [main].
type ServerMain struct {
	ID       string // empty: the host name
	Data     string // directory of the bolt files
	Control  string // path of the control socket
	Memory   int64  // bytes of fetches under way and decoded metadata, 16 MiB or more
	Log      string // text or json
	LogLevel slog.Level
	LogFile  string // where the log goes when an init script starts the daemon
}

// Stor is [stor]: what is done with stores.
type Stor struct {
	Allow   []Pattern     // one of them must match the URL of a store that a client tells; none: no such stores
	Refresh time.Duration // how old a head may be before the store is asked for a newer one; 1s or more
	Timeout time.Duration // of a fetch over all stores; 1s or more
}

// LoadServer reads a cache server's config from a file and checks it as
// ParseServer does. The error is Problems if the file could be read.
func LoadServer(path string) (*Server, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return ParseServer(path, data)
}

// ParseServer is ParseClient for ays_cache. Without any text all is as by
// default. The certificates that are named are read, to check them.
func ParseServer(name string, data []byte) (*Server, error) {
	if len(bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\ufeff")))) == 0 {
		data = []byte("# all as by default\n") // which a client's config can't be
	}
	doc, err := parse(name, data, serverSchema)
	if err != nil {
		return nil, err
	}
	c := readServer(doc.root)
	if len(doc.problems) > 0 {
		doc.problems.sort()
		return nil, doc.problems
	}
	return c, nil
}

var serverSchema = slices.Concat(
	schema{
		{"main", table},
		{"main.id", text},
		{"main.data", text},
		{"main.control", text},
		{"main.memory", text},
		{"main.log", text},
		{"main.log_level", text},
		{"main.log_file", text},
		{"http", table},
		{"http.listen", text},
		{"http.tls_cert", text},
		{"http.tls_key", text},
		{"http.max_connections", whole},
		{"http.max_header", text},
		{"http.max_body", text},
		{"http.max_batch", whole},
		{"http.max_object", text},
		{"http.header_timeout", text},
		{"http.stall_timeout", text},
		{"http.idle_timeout", text},
		{"http.user", tables},
		{"http.user.login", text},
		{"http.user.passwd", secret},
		{"ledis", tables},
		{"ledis.port", whole},
		{"ledis.bind", text},
		{"ledis.passwd", secret},
		{"ledis.max_size", text},
		{"ledis.min_free", text},
		{"ledis.addr", texts},
		{"ledis.cluster", flag},
	},
	storeSchema("ays.stor"),
	schema{
		{"stor", table},
		{"stor.allow", texts},
		{"stor.refresh", text},
		{"stor.timeout", text},
	},
)

func readServer(root node) *Server {
	c := &Server{
		Main:  readServerMain(root.table("main")),
		HTTP:  readHTTP(root.table("http")),
		Ledis: readLedis(root),
		Stor:  readStor(root.table("stor")),
	}
	names := named{}
	for _, n := range root.list("ays.stor", tables) {
		c.Stores = append(c.Stores, readStore(n, names))
	}
	return c
}

func readServerMain(n node) ServerMain {
	return ServerMain{
		ID:       parsed(n, "id", "", parseName),
		Data:     parsed(n, "data", "/var/lib/ays_cache", parsePath),
		Control:  parsed(n, "control", DefaultServerControl, parseSocketPath),
		Memory:   parsed(n, "memory", "128MiB", sizeFrom(16)),
		Log:      parsed(n, "log", "text", oneOf("text", "json")),
		LogLevel: parsed(n, "log_level", "info", parseLogLevel),
		LogFile:  parsed(n, "log_file", "/var/log/ays_cache.log", parsePath),
	}
}

func readStor(n node) Stor {
	s := Stor{
		Refresh: parsed(n, "refresh", "10s", interval(time.Second)),
		Timeout: parsed(n, "timeout", "25s", interval(time.Second)),
	}
	if c, ok := n.get("allow", texts); !ok || c.value == nil {
		s.Allow = []Pattern{"*"}
	}
	for _, e := range n.list("allow", texts) {
		p := Pattern(e.value.(string))
		if p == "" {
			e.problem("", "is empty: write a pattern such as \"https://files.example.org/*\"")
		}
		s.Allow = append(s.Allow, p)
	}
	return s
}
