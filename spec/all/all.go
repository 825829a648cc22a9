// Package all registers every proposer. Import it for its side effect.
package all

import (
	_ "sestina/spec/draft"
	_ "sestina/spec/mtp"
	_ "sestina/spec/ngram"
)
