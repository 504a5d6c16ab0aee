package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/aysfs/aysfs/src/doctor"
)

func examine(ctx context.Context, c *call, args []string) int {
	flags := c.flags()
	file := flags.String("config", defaultConfig, "the client's config `file`")
	asJSON := flags.Bool("json", false, "print one JSON array")
	if _, code, ok := c.parse(flags, args); !ok {
		return code
	}
	found := doctor.Examine(ctx, *file, version)
	if *asJSON {
		if err := c.printJSON(found); err != nil {
			return c.fail(err)
		}
	}
	code := exitOK
	for _, f := range found {
		if f.Level == doctor.Fail {
			code = exitWrong
		}
		if *asJSON {
			continue
		}
		line := fmt.Sprintf("%-5s %s: %s", f.Level, f.About, strings.ReplaceAll(f.Found, "\n", "; "))
		if f.Do != "" {
			line += " -> " + f.Do
		}
		fmt.Fprintln(c.stdout, line)
	}
	return code
}
