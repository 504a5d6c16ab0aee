// Package rootfs finds its way in the root of an image that is not running: what is
// an absolute path there, or a symlink to one, lies below a directory here.
package rootfs
