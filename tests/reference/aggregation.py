"""Votes to answers, one pattern and one group after the other, as Gleason et al. 2024 describe it."""

from statistics import median


def top_two(votes):
    """Return the first best class, and the counts of the best two (0 where there is no second)."""
    order = sorted(range(len(votes)), key=lambda index: (-votes[index], index))
    return order[0], votes[order[0]], votes[order[1]] if len(votes) > 1 else 0


def difference_aggregation(votes, groups):
    """Return, per distinct group, the summed difference confidence of each class, in trees."""
    result = []
    for wanted in sorted(set(groups)):
        members = [row for row, group in zip(votes, groups, strict=True) if group == wanted]
        sums = [0] * len(members[0])
        for row in members:
            winner, first, second = top_two(row)
            sums[winner] += first - second
        if not any(sums):
            sums = [sum(column) for column in zip(*members, strict=True)]
        result.append(sums)
    return result


def median_aggregation(values, groups):
    """Return the median of every distinct group."""
    return [median(v for v, group in zip(values, groups, strict=True) if group == g) for g in sorted(set(groups))]
