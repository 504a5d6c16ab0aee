//go:build race

package tier

// spoil has whoever still looks at memory that was given back see that.
func spoil(b []byte) {
	for i := range b {
		b[i] = 0xdb
	}
}
