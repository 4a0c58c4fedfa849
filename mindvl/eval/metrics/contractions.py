"""English contractions and how people write them without apostrophes; the VQA normaliser restores these.

    "dont" -> "don't"    "couldntve" is not restored, "couldnt've" and "couldn'tve" are

The set is the one of the VQA evaluation of 2015, with its gaps ("ill", "shed" and "were" are words) and its three
slips: "somebody'd" loses its apostrophe, "let's" and "she's" stay. Forms with capitals are left out, since texts are
lower-case by then.
"""

_ONE_APOSTROPHE = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't
it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't
somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's they'd
they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's where've
who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""

_TWO_APOSTROPHES = """
couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've someone'd've something'd've there'd've they'd've
we'd've who'd've wouldn't've y'all'll you'd've
"""

_OTHERS = {
    "somebody'd": "somebodyd",
    "somebodyd've": "somebody'd've",
    "somebody'dve": "somebody'd've",
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
    "yall'd've": "y'all'd've",
    "y'alld've": "y'all'd've",
    "y'all'dve": "y'all'd've",
}


def _without_one(form: str) -> list[str]:
    """All texts with one apostrophe less."""
    return [form[:place] + form[place + 1 :] for place, letter in enumerate(form) if letter == "'"]


RESTORED = {
    **{written: form for form in (_ONE_APOSTROPHE + _TWO_APOSTROPHES).split() for written in _without_one(form)},
    **_OTHERS,
}
"""From what is written to what is meant, lower-case."""
