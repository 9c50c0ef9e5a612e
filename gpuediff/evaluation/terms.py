"""The words of the page of an evaluation, explained to its reader."""

PROTOCOLS = {
    "grid": "every crystal of a Laue class is seen from the same zone axes with the same in-plane convention, as in "
    "the paper; a microscope does not do that, and scores are higher than it would meet",
    "any": "uniformly random orientation and in-plane angle, as under a microscope; every peak is seen, undisturbed",
    "measured": "as “any”, with the errors of a good detector: lost, moved and false peaks, noise, "
    "a limited dynamic range",
    "hard": "as “measured”, with peaks moved farther, and a second grain in some of the patterns",
}
TERMS = (
    ("answer", "What the model says about one pattern, or about a group of patterns known to be of one material."),
    ("unseen materials", "No pattern of a test material was trained on, in any orientation or thickness."),
    ("± behind a share", "Standard error over materials: patterns of one material are not independent."),
    ("recall", "Of the answers whose truth is a crystal system, the share that name it."),
    ("mean over systems", "Mean of the recalls: every crystal system counts alike, however many patterns it has."),
    ("precision", "Of the answers that name a crystal system, the share that are right."),
    ("false positives", "Of the answers whose truth is another crystal system, the share that name this one."),
    (
        "calibration error",
        "Answers are put into ten bins of confidence; in each, the mean confidence is compared with the share right, "
        "and the differences are averaged over the answers.",
    ),
    (
        "log-loss",
        "Mean of −ln p, p the probability given to the true system (at least 10⁻⁶); guessing among six "
        "systems alike gives 1.79, among seven 1.95.",
    ),
    (
        "system given",
        "Space group and lattice by the models of the true crystal system, so that one model’s errors are not "
        "charged to another. A user meets the system predicted.",
    ),
    (
        "within 2% (5%)",
        "Every length is that close to the true one, and every angle within 0.02 (0.05) rad, 1.1° (2.9°). An answer "
        "without a lattice is not.",
    ),
    (
        "median error",
        "Over all answers; one without a lattice counts as infinitely wrong, so that a median may be unknown.",
    ),
    (
        "validation materials",
        "No forest was trained on them, but how far to trust a probability was learned from them: scores on them are "
        "for choosing a model, scores on test materials for telling how good it is.",
    ),
    (
        "probability",
        "Of the predicted crystal system, as the forest gives it, or calibrated on validation materials, so that of "
        "the answers given with probability 0.7, 70% are right.",
    ),
    (
        "promised errors",
        "From the validation materials the model knows the least probability to ask for, so that of the answers given "
        "at most that share has a wrong crystal system, under each protocol it was trained for; all others are left "
        "undecided.",
    ),
)
