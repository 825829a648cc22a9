// Package all registers every backend. Import it for its side effect.
package all

import (
	_ "sestina/backend/cpu"
	_ "sestina/backend/ref"
)
