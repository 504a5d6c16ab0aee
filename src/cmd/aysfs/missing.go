package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/aysfs/aysfs/src/control"
)

// sayMissing tells whoever has started the daemon what it does not show yet, and
// why. Where it can't be asked, that is no reason to call the start a failure.
func sayMissing(w io.Writer, socket string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s, err := control.Fetch(ctx, socket)
	if err != nil {
		fmt.Fprintf(w, "aysfs: started, but does not say how it is: %v\n", err)
		return
	}
	for _, m := range s.Mounts {
		if m.Error != "" {
			fmt.Fprintf(w, "aysfs: %s: no tree yet, and the daemon goes on trying: %s\n", m.Path, m.Error)
		}
	}
}
