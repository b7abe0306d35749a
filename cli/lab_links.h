// What a lab's links can carry, in the planner's terms.
#pragma once

#include "collectives/wan/plan/link_matrix.h"
#include "proto/lab_file.h"

namespace atl {

// Rates in a lab file are on the wire; those of the matrix are TCP payload at an MTU of 1500 (1448
// of 1500 bytes).
wan::LinkMatrix LabLinks(const Lab& lab);

}  // namespace atl
