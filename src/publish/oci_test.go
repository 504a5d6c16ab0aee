package publish_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
)

const (
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
	ociIndex    = "application/vnd.oci.image.index.v1+json"
	ociLayer    = "application/vnd.oci.image.layer.v1.tar"
)

// image makes an OCI layout.
type image struct {
	testing.TB
	dir string
}

type desc map[string]any

func newImage(t testing.TB) *image {
	i := &image{t, filepath.Join(t.TempDir(), "layout")}
	must(t, os.MkdirAll(i.dir+"/blobs/sha256", 0o755))
	i.write("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return i
}

func (i *image) write(name string, b []byte) {
	i.Helper()
	must(i, os.MkdirAll(filepath.Dir(filepath.Join(i.dir, name)), 0o755))
	must(i, os.WriteFile(filepath.Join(i.dir, name), b, 0o644))
}

func (i *image) blob(mediaType string, b []byte) desc {
	i.Helper()
	sum := fmt.Sprintf("%x", sha256.Sum256(b))
	i.write("blobs/sha256/"+sum, b)
	return desc{"mediaType": mediaType, "digest": "sha256:" + sum, "size": len(b)}
}

func (i *image) json(mediaType string, v any) desc {
	i.Helper()
	b, err := json.Marshal(v)
	must(i, err)
	return i.blob(mediaType, b)
}

// manifest is an image of layers for an architecture.
func (i *image) manifest(arch string, layers ...desc) desc {
	i.Helper()
	config := i.json("application/vnd.oci.image.config.v1+json", desc{"os": "linux", "architecture": arch})
	return i.json(ociManifest, desc{"schemaVersion": 2, "mediaType": ociManifest, "config": config, "layers": layers})
}

func (i *image) index(manifests ...desc) {
	i.Helper()
	b, err := json.Marshal(desc{"schemaVersion": 2, "manifests": manifests})
	must(i, err)
	i.write("index.json", b)
}

func (d desc) with(key string, value any) desc {
	d = maps.Clone(d)
	d[key] = value
	return d
}

func (d desc) forPlatform(arch, variant string) desc {
	return d.with("platform", desc{"os": "linux", "architecture": arch, "variant": variant})
}

// layered is an image that hides and replaces much.
func layered(t testing.TB) (*image, map[string]string) {
	i := newImage(t)
	base := makeTar(t,
		tarMember(tar.TypeDir, "etc/", ""), tarFile("etc/kept", "0"), tarFile("etc/hidden", "0"), tarFile("etc/replaced", "0"),
		tarMember(tar.TypeDir, "opaque/", ""), tarFile("opaque/old", "0"), tarFile("opaque/sub/old", "0"),
		tarMember(tar.TypeDir, "gone/", ""), tarFile("gone/a/b/c", "0"),
		tarMember(tar.TypeDir, "back/", ""), tarFile("back/old", "0"),
		tarMember(tar.TypeDir, "usr/lib/", ""), tarMember(tar.TypeSymlink, "lib", "usr/lib"), tarFile("usr/lib/hidden", "0"),
		tarFile("linked", "0"),
		tarFile("big", noise(4, 2<<20)),
		tarMember(tar.TypeChar, "null", ""),
	)
	second := makeTar(t,
		tarMember(tar.TypeDir, "etc/", ""), tarFile("etc/.wh.hidden", ""), tarFile("etc/replaced", "1"),
		// What a layer has itself stays, on both sides of the whiteout.
		tarFile("opaque/new-before", "1"), tarFile("opaque/.wh..wh..opq", ""), tarFile("opaque/sub/new", "1"),
		tarFile(".wh.gone", ""), tarFile(".wh.never-there", ""), tarFile("nowhere/.wh.x", ""), tarFile(".wh..wh.plnk", ""),
		tarFile("back/new", "1"), tarFile(".wh.back", ""),
		tarFile("lib/.wh.hidden", ""), tarFile("lib/new", "1"),
		tarMember(tar.TypeLink, "link", "linked"),
		tarFile(".wh.null", ""),
	)
	third := makeTar(t, tarFile(".wh.linked", ""), tarFile("etc/last", "2"))
	sum := fmt.Sprintf("%x", sha512.Sum512(third))
	i.write("blobs/sha512/"+sum, third)
	i.index(i.manifest("amd64", i.blob(ociLayer, base), i.blob(ociLayer+"+gzip", gzipped(t, second)),
		i.blob(ociLayer+"+zstd", zstded(t, makeTar(t))), desc{"mediaType": ociLayer, "digest": "sha512:" + sum, "size": len(third)}))
	return i, map[string]string{
		"etc/kept": "0", "etc/replaced": "1", "etc/last": "2", "opaque/new-before": "1", "opaque/sub/new": "1",
		"back/new": "1", "usr/lib/new": "1", "link": "0", "big": noise(4, 2<<20),
	}
}

func TestImage(t *testing.T) {
	i, want := layered(t)
	store := t.TempDir()
	res := run(t, store, i.dir, func(o *publish.Options) { o.Whole = true })
	mustBeClean(t, store)
	p := readBack(t, store)
	if !maps.Equal(p.content, want) {
		t.Errorf("got %q, want %q", slices.Sorted(maps.Keys(p.content)), slices.Sorted(maps.Keys(want)))
	}
	for _, none := range []string{"gone", "linked", "null", "opaque/old", "opaque/sub/old", "nowhere"} {
		if e, ok := p.entries[none]; ok {
			t.Errorf("%s is there: %+v", none, e)
		}
	}
	if e := p.entries["lib"]; e.Kind != object.Symlink {
		t.Errorf("lib is %+v", e)
	}

	// The same as an archive, however it is read.
	archive := tarOf(t, i.dir)
	for name, o := range map[string]func(*publish.Options){
		"file":       func(o *publish.Options) { o.Root = writeFile(t, archive) },
		"told":       func(o *publish.Options) { o.Root, o.Format = writeFile(t, archive), publish.OCI },
		"gzip":       func(o *publish.Options) { o.Root = writeFile(t, gzipped(t, archive)) },
		"stdin":      func(o *publish.Options) { o.Root, o.Stdin = "-", bytes.NewReader(archive) },
		"stdin gzip": func(o *publish.Options) { o.Root, o.Stdin = "-", bytes.NewReader(gzipped(t, archive)) },
	} {
		if again, err := tryRun(store, "", o); err != nil || !again.Unchanged || again.Root != res.Root {
			t.Errorf("%s: %+v, %v", name, again, err)
		}
	}
	// As image tools order them.
	for _, first := range []string{"blobs", "oci-layout", "index.json"} {
		var members []member
		names := []string{"oci-layout", "index.json"}
		blobs, err := filepath.Glob(i.dir + "/blobs/*/*")
		must(t, err)
		for _, b := range blobs {
			names = append(names, strings.TrimPrefix(b, i.dir+"/"))
		}
		slices.SortFunc(names, func(a, b string) int { return strings.Compare(a, b) })
		slices.SortStableFunc(names, func(a, b string) int {
			return map[bool]int{true: 0, false: 1}[strings.HasPrefix(a, first)] - map[bool]int{true: 0, false: 1}[strings.HasPrefix(b, first)]
		})
		for _, name := range names {
			b, err := os.ReadFile(filepath.Join(i.dir, name))
			must(t, err)
			members = append(members, tarFile(name, string(b)))
		}
		if again, err := publishTar(store, makeTar(t, members...)); err != nil || !again.Unchanged {
			t.Errorf("with %s first: %+v, %v", first, again, err)
		}
	}
	// As what it is on disk.
	if plain := run(t, t.TempDir(), i.dir, func(o *publish.Options) { o.Format = publish.Directory }); plain.Root == res.Root {
		t.Error("-as dir published the image")
	}
}

// A tree may begin with blobs and be no layout.
func TestArchiveLikeALayout(t *testing.T) {
	archive := makeTar(t, tarFile("blobs/sha256/x", "x"), tarFile("index.json", "{}"))
	for _, b := range [][]byte{archive, gzipped(t, archive)} {
		store := t.TempDir()
		if _, err := publishTar(store, b); err != nil {
			t.Fatal(err)
		}
		if p := readBack(t, store); len(p.content) != 2 || p.content["blobs/sha256/x"] != "x" {
			t.Errorf("got %v", p.content)
		}
		run(t, store, writeFile(t, b))
		if _, err := publishTar(store, b, func(o *publish.Options) { o.Format = publish.OCI }); err == nil || !strings.Contains(err.Error(), "no image layout") {
			t.Errorf("got %v", err)
		}
		if _, err := publishTar(store, b[:len(b)/2]); err == nil {
			t.Error("published what is cut off")
		}
	}
}

func TestImageChoice(t *testing.T) {
	i := newImage(t)
	layer := func(content string) desc { return i.blob(ociLayer, makeTar(t, tarFile("is", content))) }
	amd64 := i.manifest("amd64", layer("amd64"))
	armv7 := i.manifest("arm", layer("armv7")).forPlatform("arm", "v7")
	arm64 := i.manifest("arm64", layer("arm64")).forPlatform("arm64", "v8")
	attested := i.manifest("unknown", layer("attestation")).with("platform", desc{"os": "unknown", "architecture": "unknown"})
	inner := i.json(ociIndex, desc{"schemaVersion": 2, "manifests": []desc{armv7, arm64, attested}})
	named := amd64.with("annotations", desc{"org.opencontainers.image.ref.name": "v1"})
	i.index(named, inner, desc{"mediaType": "text/x", "digest": "sha256:none"})
	single := newImage(t)
	single.index(single.manifest("amd64", single.blob(ociLayer, makeTar(t, tarFile("is", "single")))))

	publishOf := func(i *image, platform, choice string) (string, error) {
		store := t.TempDir()
		_, err := tryRun(store, i.dir, func(o *publish.Options) { o.Tree.Platform, o.Image = platform, choice })
		if err != nil {
			return "", err
		}
		// Read it back as the tree for every platform.
		must(t, os.RemoveAll(store))
		run(t, store, i.dir, func(o *publish.Options) {
			o.Image = choice
			if choice == "" && platform != "" && i != single {
				o.Image = platform
			}
		})
		return readBack(t, store).content["is"], nil
	}
	for _, c := range []struct {
		i                     *image
		platform, image, want string
	}{
		{i, "linux-amd64", "", "amd64"}, // its config says so
		{i, "linux-x86_64", "", "amd64"},
		{i, "linux-arm-v7", "", "armv7"},
		{i, "linux_arm", "", "armv7"},
		{i, "linux-arm64", "", "arm64"},
		{i, "ubuntu64", "linux/arm64/v8", "arm64"},
		{i, "", "v1", "amd64"},
		{i, "", armv7["digest"].(string), "armv7"},
		{single, "", "", "single"},
		{single, "ubuntu64", "", "single"},
		{single, "linux-amd64", "", "single"},
	} {
		if got, err := publishOf(c.i, c.platform, c.image); err != nil || got != c.want {
			t.Errorf("platform %q, image %q: got %q, %v, want %q", c.platform, c.image, got, err, c.want)
		}
	}
	for _, c := range []struct {
		i                     *image
		platform, image, want string
	}{
		{i, "", "", "3 images would do; choose one with -image, by digest if need be: v1 for linux/amd64, linux/arm/v7, linux/arm64/v8"},
		{i, "linux-mips", "", "no image for platform linux-mips"},
		{i, "linux-amd64", "v2", `no image "v2"`},
		{single, "linux-arm64", "", "no image for platform linux-arm64"},
	} {
		if _, err := publishOf(c.i, c.platform, c.image); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("platform %q, image %q: got %v, want %s", c.platform, c.image, err, c.want)
		}
	}
}

// An image that is not what its digests say publishes nothing.
func TestImageRefuses(t *testing.T) {
	store := t.TempDir()
	_, err := publishTar(store, makeTar(t, tarFile("good", "good")))
	must(t, err)
	for want, spoil := range map[string]func(*image, desc, desc) []desc{
		"wrong digest or size": func(i *image, layer, _ desc) []desc {
			i.write(blobPath(layer), gzipped(t, makeTar(t, tarFile("evil", "evil"))))
			return nil
		},
		"wrong digest": func(i *image, _, manifest desc) []desc {
			i.write(blobPath(manifest), []byte(`{"layers":[]}`))
			return nil
		},
		"the manifest says": func(i *image, layer, _ desc) []desc {
			return []desc{i.manifest("amd64", layer.with("size", 7))}
		},
		"no such file": func(i *image, layer, _ desc) []desc {
			must(t, os.Remove(filepath.Join(i.dir, blobPath(layer))))
			return nil
		},
		"is no file system": nil,
		"layer 2, sha256:": func(i *image, layer, _ desc) []desc {
			return []desc{i.manifest("amd64", layer, i.blob(ociLayer, []byte(strings.Repeat("garbage", 1000))))}
		},
		"is malformed": func(i *image, layer, _ desc) []desc {
			return []desc{i.manifest("amd64", layer.with("digest", "sha256:../../../../etc/passwd"))}
		},
		"want sha256 or sha512": func(i *image, layer, _ desc) []desc {
			return []desc{i.manifest("amd64", layer.with("digest", "md5:00"))}
		},
		"no image": func(*image, desc, desc) []desc { return []desc{} },
		"version \"2.0.0\"": func(i *image, _, _ desc) []desc {
			i.write("oci-layout", []byte(`{"imageLayoutVersion":"2.0.0"}`))
			return nil
		},
		"more than 4194304 bytes": func(i *image, _, _ desc) []desc {
			i.write("oci-layout", bytes.Repeat([]byte(" "), 5<<20))
			return nil
		},
		"more than 40 symlinks": func(i *image, _, _ desc) []desc {
			return []desc{i.manifest("amd64", i.blob(ociLayer, makeTar(t, tarMember(tar.TypeSymlink, "loop", "loop"), tarFile("loop/x", ""))))}
		},
		"the name is absolute": func(i *image, _, _ desc) []desc {
			return []desc{i.manifest("amd64", i.blob(ociLayer, makeTar(t, tarFile("/abs", ""))))}
		},
	} {
		i := newImage(t)
		layer := i.blob(ociLayer+"+gzip", gzipped(t, makeTar(t, tarFile("file", "content"))))
		if want == "is no file system" {
			layer = i.blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip", gzipped(t, makeTar(t)))
		}
		manifest := i.manifest("amd64", layer)
		manifests := []desc{manifest}
		if spoil != nil {
			if other := spoil(i, layer, manifest); other != nil {
				manifests = other
			}
		}
		i.index(manifests...)
		if _, err := tryRun(store, i.dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if p := readBack(t, store); p.head.Serial != 1 || p.content["good"] != "good" {
		t.Errorf("the head is %+v", p.head)
	}
}

func blobPath(d desc) string {
	return "blobs/" + strings.Replace(d["digest"].(string), ":", "/", 1)
}
