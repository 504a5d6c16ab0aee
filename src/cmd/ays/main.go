package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Set by the linker: -X main.version=… -X main.commit=…
var (
	version = "devel"
	commit  = ""
)

// Exit codes.
const (
	exitOK     = 0
	exitWrong  = 1 // a check found something wrong, or a publish left something out
	exitFailed = 2 // nothing was done: a mistake in the arguments, say
)

// command is one of ays's subcommands.
type command struct {
	name    string
	args    string // what follows the flags
	summary string
	// run gets the arguments behind the command's name and returns the exit
	// code. Its messages have been written by then.
	run func(ctx context.Context, c *call, args []string) int
}

// call is what a command was called with, beside its arguments.
type call struct {
	command        *command
	stdin          io.Reader
	stdout, stderr io.Writer
	terminal       bool // stderr is one
}

func commands() []command {
	return []command{
		{"publish", "TREE", "publish a directory, tar archive, OCI image or .flist to a store; - is an archive on standard input", publishTree},
		{"verify", "", "check all that a store's heads reach", verifyStore},
		{"log", "", "list the heads that a tree had, and what changed", logTree},
		{"diff", "ID[@SERIAL] ID[@SERIAL]", "list the paths that two heads don't have alike", diffTrees},
		{"rollback", "", "publish an older head of a tree again, under a new serial", rollbackTree},
		{"promote", "", "give a tree's head to another id or platform, without copying a blob", promoteTree},
		{"tag", "", "the same as promote", promoteTree},
		{"gc", "", "remove from a store what none of the heads to be kept reaches", collectGarbage},
		{"copy", "", "mirror trees from one store to another", copyTrees},
		{"bake", "", "put what a machine's first boot needs into its image: config, metadata, content", bakeImage},
		{"ls", "", "list the trees of a store", listStore},
		{"status", "", "show how the client on this machine is doing", showStatus},
		{"health", "", "tell by the exit code whether the client or the cache server on this machine is well", showHealth},
		{"profile", "record|show", "record what a program needs of a tree first, for clients to fetch ahead", profileTree},
		{"debug", "pull|watch|log|clear", "bring home what was changed on running machines", debugMount},
		{"keygen", "NAME", "make a key to sign heads with", makeKey},
		{"sign", "", "sign a head's text on standard input, for publish -sign-with", signHead},
		{"version", "", "print the version", printVersion},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(dispatch(ctx, os.Args[1:]))
}

func dispatch(ctx context.Context, args []string) int {
	c := &call{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, terminal: isTerminal(os.Stderr)}
	if len(args) == 0 {
		usage(c.stderr)
		return exitFailed
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		usage(c.stdout)
		return exitOK
	case "-version", "--version":
		args[0] = "version"
	}
	for _, cmd := range commands() {
		if cmd.name == args[0] {
			c.command = &cmd
			return cmd.run(ctx, c, args[1:])
		}
	}
	fmt.Fprintf(c.stderr, "ays: no command %q; \"ays help\" lists them\n", args[0])
	return exitFailed
}

func usage(w io.Writer) {
	fmt.Fprint(w, "usage: ays COMMAND [FLAGS] [ARGUMENTS]\n\n")
	for _, cmd := range commands() {
		fmt.Fprintf(w, "  %-10s %s\n", cmd.name, cmd.summary)
	}
	fmt.Fprint(w, "\n\"ays COMMAND -h\" tells the flags of one. Exit codes: 0 all right, 1 a check found\nsomething wrong or a publish left something out, 2 nothing was done.\n")
}
