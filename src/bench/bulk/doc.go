// Package bulk publishes trees of as many files as are wanted, in seconds: it
// makes their listings, not the files, which all have one of a few contents.
package bulk
