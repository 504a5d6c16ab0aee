package main

import (
	"context"
	"fmt"
	"io"
)

// runBelow runs one of the commands below the one that was called, as args say. Their
// names begin with its name. flags are those that all of them need.
func (c *call) runBelow(ctx context.Context, commands []command, flags string, args []string) int {
	word := c.command.name
	usage := func(w io.Writer) {
		fmt.Fprintf(w, "usage: ays %s COMMAND %s [FLAGS] [ARGUMENTS]\n\n", word, flags)
		width := 0
		for _, cmd := range commands {
			width = max(width, len(cmd.name)+1)
		}
		for _, cmd := range commands {
			fmt.Fprintf(w, "  %-*s %s\n", width, cmd.name, cmd.summary)
		}
		fmt.Fprintf(w, "\n\"ays %s COMMAND -h\" tells the flags of one.\n", word)
	}
	if len(args) == 0 {
		usage(c.stderr)
		return exitFailed
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		usage(c.stdout)
		return exitOK
	}
	for _, cmd := range commands {
		if cmd.name == word+" "+args[0] {
			c.command = &cmd
			return cmd.run(ctx, c, args[1:])
		}
	}
	return c.fail(fmt.Errorf("no command %q; \"ays %s help\" lists them", args[0], word))
}
