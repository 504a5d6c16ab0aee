package main

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// member is a file of a tarball.
type member struct {
	source string
	name   string // below the tarball's directory
	mode   int64
}

// members are all files that a tarball holds but the programs.
func members() ([]member, error) {
	all := []member{{"LICENSE", "LICENSE", 0o644}, {"README.md", "README.md", 0o644}}
	for _, dir := range []string{"init", "rootfs"} {
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			switch {
			case p == "init/package": // for packagers
				return fs.SkipDir
			case d.Type().IsRegular():
				mode := int64(0o644)
				if dir == "init" && !strings.HasPrefix(p, "init/systemd/") {
					mode = 0o755
				}
				all = append(all, member{p, p, mode})
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b member) int { return cmp.Compare(a.name, b.name) })
	return all, nil
}

// writeTarball packs what is in the source and, from root, the programs.
func (r release) writeTarball(to, root string) (err error) {
	all, err := members()
	if err != nil {
		return err
	}
	for _, p := range programs {
		all = append(all, member{filepath.Join(root, p.path), path.Join("rootfs", p.path), 0o755})
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	packed, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(packed)
	top := strings.TrimSuffix(filepath.Base(to), ".tar.gz")
	for _, m := range all {
		b, err := os.ReadFile(m.source)
		if err != nil {
			return err
		}
		if err := archive.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: path.Join(top, m.name), Size: int64(len(b)), Mode: m.mode,
			ModTime: r.date, Uname: "root", Gname: "root",
		}); err != nil {
			return err
		}
		if _, err := archive.Write(b); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return packed.Close()
}
