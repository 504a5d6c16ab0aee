package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// readAll reads the large file from start to end, as cp and cat do.
func readAll(ctx context.Context, t *tree, dir, _ string) (time.Duration, error) {
	began := time.Now()
	f, err := os.Open(filepath.Join(dir, bigFile))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, 128<<10)
	var total int64
	for err == nil && ctx.Err() == nil {
		var n int
		n, err = f.Read(buf)
		total += int64(n)
	}
	took := time.Since(began)
	switch {
	case ctx.Err() != nil:
		return took, context.Cause(ctx)
	case err != io.EOF:
		return took, err
	case total != t.Bytes:
		return took, fmt.Errorf("%s has %d bytes, not %d", bigFile, total, t.Bytes)
	}
	return took, nil
}

// How many random reads are one work. Out of memory they are so quick that they
// are done over and over.
const (
	randomCount = 1000
	pageRounds  = 100
	randomSize  = 4 << 10
)

// randomReads reads pages here and there in the large file, the same ones each
// time, in several threads.
func randomReads(threads int) func(context.Context, *tree, string, string) (time.Duration, error) {
	return func(ctx context.Context, t *tree, dir, when string) (time.Duration, error) {
		f, err := os.Open(filepath.Join(dir, bigFile))
		if err != nil {
			return 0, err
		}
		defer f.Close()
		rounds := 1
		if when == page {
			rounds = pageRounds
		}
		errs := make([]error, threads)
		began := time.Now()
		var all sync.WaitGroup
		for i := range threads {
			all.Go(func() { errs[i] = readPages(ctx, f, t.Bytes, i, threads, rounds) })
		}
		all.Wait()
		return time.Since(began) / time.Duration(rounds), errors.Join(errs...)
	}
}

// readPages reads every threads-th of the pages, from the i-th on.
func readPages(ctx context.Context, f *os.File, size int64, i, threads, rounds int) error {
	buf := make([]byte, randomSize)
	for range rounds {
		offsets := rand.New(rand.NewPCG(1, 2))
		for k := range randomCount {
			off := offsets.Int64N(size/randomSize) * randomSize
			if k%threads != i {
				continue
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if _, err := f.ReadAt(buf, off); err != nil {
				return err
			}
		}
	}
	return nil
}

// statAll asks for the attributes of everything in the tree, in no order.
func statAll(ctx context.Context, t *tree, dir, _ string) (time.Duration, error) {
	var paths []string
	for _, k := range rand.New(rand.NewPCG(1, 2)).Perm(len(t.paths)) {
		// What nginx lists, and so what rclone knows, has no such names.
		if hidden := strings.Contains("/"+t.paths[k], "/."); !hidden {
			paths = append(paths, dir+"/"+t.paths[k])
		}
	}
	began := time.Now()
	for _, p := range paths {
		if ctx.Err() != nil {
			return time.Since(began), context.Cause(ctx)
		}
		if _, err := os.Lstat(p); err != nil {
			return time.Since(began), err
		}
	}
	return time.Since(began), nil
}
