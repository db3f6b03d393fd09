package objects

import (
	"os"
	"time"
)

// AsAmazon makes s believe that its server is Amazon's: it trusts the answers and asks no more than needed.
func AsAmazon(s Store) { s.(*bucket).custom = false }

// Sweep removes leftovers as if Open was called at now.
func Sweep(s Store, now time.Time) { s.(*folder).sweep(now) }

// SwapFile replaces the open file of a folder's upload.
func SwapFile(u Upload, f *os.File) *os.File {
	upload := u.(*folderUpload)
	old := upload.file
	upload.file = f
	return old
}

// ExplainFolder is what a folder says about an error of the file system.
func ExplainFolder(s Store, err error) error { return s.(*folder).explain("write x", err) }
