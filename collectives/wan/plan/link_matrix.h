// What the links between the members of a view can carry. Rates count all bytes of TCP payload a
// second; a rate of infinity is "no limit that is known", a pair's rate of 0 "no link".
//
// A transfer from i to j uses up[i], rate(i, j) and down[j] at once: a region's own line caps the
// sum over its peers, a pair's rate what lies between two of them.
#pragma once

#include <string>
#include <vector>

namespace atl::wan {

struct LinkMatrix {
  LinkMatrix() = default;
  // No limits, no delay.
  explicit LinkMatrix(int members);

  int members() const { return static_cast<int>(up.size()); }
  double& rate(int from, int to) { return rates[from * members() + to]; }
  double rate(int from, int to) const { return rates[from * members() + to]; }
  double& delay(int from, int to) { return delays[from * members() + to]; }
  double delay(int from, int to) const { return delays[from * members() + to]; }

  std::vector<std::string> names;
  std::vector<double> up;      // bytes/s, by member
  std::vector<double> down;    // bytes/s
  std::vector<double> rates;   // bytes/s, by from * members + to
  std::vector<double> delays;  // one way, seconds
};

}  // namespace atl::wan
