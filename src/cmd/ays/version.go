package main

import (
	"context"
	"fmt"
	"runtime"
)

func printVersion(_ context.Context, c *call, args []string) int {
	if _, code, ok := c.parse(c.flags(), args); !ok {
		return code
	}
	fmt.Fprintf(c.stdout, "ays %s", version)
	if commit != "" {
		fmt.Fprintf(c.stdout, " (%s)", commit)
	}
	fmt.Fprintf(c.stdout, " %s %s/%s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return exitOK
}
