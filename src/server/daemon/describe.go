package daemon

import (
	"fmt"
	"io"
	"strings"

	"github.com/aysfs/aysfs/src/config"
)

// Describe writes what a cache with this config would serve.
func Describe(w io.Writer, cfg *config.Server) {
	scheme := "http"
	if cfg.HTTP.TLSCert != "" {
		scheme = "https"
	}
	fmt.Fprintf(w, "%s on %s", scheme, cfg.HTTP.Listen)
	if n := len(cfg.HTTP.Users); n > 0 {
		fmt.Fprintf(w, ", for %d users\n", n)
	} else {
		fmt.Fprintln(w, ", for everybody")
	}
	if l := cfg.Ledis; len(l.Addr) > 0 {
		fmt.Fprintf(w, "data: at %s\n", strings.Join(l.Addr, ", "))
	} else {
		fmt.Fprintf(w, "data: %s, up to %d MiB\n", cfg.Main.Data, l.MaxSize>>20)
		if l.Port != 0 {
			fmt.Fprintf(w, "ledis: %s port %d\n", l.Bind, l.Port)
		}
	}
	fmt.Fprintf(w, "%d stores:\n", len(cfg.Stores))
	for _, s := range cfg.Stores {
		private := ""
		if s.Login != "" {
			private = ", private"
		}
		fmt.Fprintf(w, "  %s: %s%s\n", s.Name, s.URL.Redacted(), private)
	}
}
