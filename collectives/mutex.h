// Moved to base/mutex.h.
#pragma once
#include "base/mutex.h"
